/** Has the server compute what is chosen, again whenever a choice or the image changes. */

import { GroupconvError, type Geometry, type Result, type Tensor } from "groupconv";
import { useEffect, useMemo, useState } from "preact/hooks";
import type { Input } from "../model/images";
import { Server } from "../model/server";
import { geometriesOf, stepsOf } from "../model/steps";
import type { State } from "../model/state";

/** Milliseconds between attempts to reach a server that was lost. */
const PAUSE = 2000;
/** Milliseconds without a change before a request is sent. */
const SETTLE = 60;

/** A result with all that it was made of. */
export interface Made {
  readonly state: State;
  readonly input: Input;
  readonly geometries: readonly Geometry[];
  readonly output: Tensor;
  readonly report: Result["report"];
}

/** The last result, and what is wrong since. */
export interface Convolution {
  readonly made: Made | null;
  readonly trouble: GroupconvError | null;
  /** Sets the token and asks again. */
  setToken(token: string): void;
}

export function useConvolution(state: State, input: Input | null): Convolution {
  const [token, setToken] = useState("");
  const [made, setMade] = useState<Made | null>(null);
  const [trouble, setTrouble] = useState<GroupconvError | null>(null);
  const [attempt, setAttempt] = useState(0);
  const server = useMemo(() => {
    try {
      return new Server(token);
    } catch (error) {
      return error as GroupconvError;
    }
  }, [token]);

  useEffect(() => {
    if (input === null || input.shown.width !== state.size || input.tensor.shape[0] !== state.channels) return;
    const abort = new AbortController();
    const run = async () => {
      try {
        if (server instanceof GroupconvError) throw server;
        const geometries = geometriesOf(state, stepsOf(state));
        const { output, report } = await server.run(state, input.tensor, abort.signal);
        if (abort.signal.aborted) return;
        setMade({ state, input, geometries, output, report });
        setTrouble(null);
      } catch (error) {
        if (!abort.signal.aborted) setTrouble(asError(error));
      }
    };
    const timer = setTimeout(run, SETTLE);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [state, input, server, attempt]);

  const lost = trouble?.status === "UNAVAILABLE";
  useEffect(() => {
    if (!lost || !(server instanceof Server)) return;
    const timer = setInterval(
      () =>
        server.reached().then(
          () => setAttempt((n) => n + 1),
          () => undefined,
        ),
      PAUSE,
    );
    return () => clearInterval(timer);
  }, [lost, server]);

  return { made, trouble, setToken };
}

function asError(error: unknown): GroupconvError {
  return error instanceof GroupconvError ? error : new GroupconvError(`This page has a defect: ${String(error)}`);
}
