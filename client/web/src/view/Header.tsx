/** The title, and the link to what is shown. */

import { useState } from "preact/hooks";
import { isLocal } from "../model/images";
import type { State } from "../model/state";

export function Header({ state }: { state: State }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(location.href);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <header>
      <div>
        <h1>See a convolution</h1>
        <p>Choose an image and a kernel. A groupconv server computes the result, and its workers share the work.</p>
      </div>
      <button type="button" onClick={copy}>
        {copied ? "Copied" : "Copy link"}
      </button>
      <span class="hidden" role="status">
        {copied ? `The link is copied${isLocal(state.image) ? ", without your image" : ""}.` : ""}
      </span>
    </header>
  );
}
