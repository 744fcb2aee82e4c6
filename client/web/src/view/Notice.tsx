/** What is wrong, in words, and what to do. */

import { useState } from "preact/hooks";
import type { Convolution } from "./useConvolution";

export function Notice({ convolution, camera }: { convolution: Convolution; camera: string | null }) {
  const { trouble, setToken } = convolution;
  const status = trouble?.status;
  const token = status === "UNAUTHENTICATED" || status === "PERMISSION_DENIED";
  return (
    <div class="alert" role="alert">
      {camera && <p class="notice">{camera}</p>}
      {trouble && !token && status === "UNAVAILABLE" && (
        <p class="notice">
          <strong>The server does not answer.</strong> This page tries again until it does. What you see is the last
          result.
        </p>
      )}
      {trouble && !token && status !== "UNAVAILABLE" && (
        <p class="notice">
          <strong>{status === "INVALID_ARGUMENT" ? "This is no convolution." : "The server refused this."}</strong>{" "}
          <code>{trouble.message}</code>
        </p>
      )}
      {token && <TokenForm why={trouble!.message} setToken={setToken} />}
    </div>
  );
}

function TokenForm({ why, setToken }: { why: string; setToken: (token: string) => void }) {
  const [text, setText] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    setToken(text.trim());
  };
  return (
    <form class="notice" onSubmit={submit}>
      <p>
        <strong>This server wants a token.</strong> Its operator makes one with <code>groupconv token new</code>. It is
        kept until you close this page, and is in no link. <small>({why})</small>
      </p>
      <label>
        Token <input type="password" autocomplete="off" value={text} onInput={(e) => setText(e.currentTarget.value)} />
      </label>{" "}
      <button type="submit">Use it</button>
    </form>
  );
}
