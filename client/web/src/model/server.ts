/** The server that served this page. */

import { connect, type Client, type GroupconvError, type Result, type Tensor } from "groupconv";
import { stepsOf } from "./steps";
import { EXAMPLE, exampleCut, type State } from "./state";

const TIMEOUT = 30;

/** Calls of this page, with the reader's token if the server wants one. */
export class Server {
  #client: Client;

  /** @throws InvalidArgumentError if the token would travel without TLS. */
  constructor(token: string) {
    this.#client = connect(location.origin, { timeout: TIMEOUT, retries: 1, ...(token ? { token } : {}) });
  }

  /** The output of the chosen convolution, and how the server made it. */
  run(state: State, input: Tensor, signal: AbortSignal): Promise<Result> {
    const run = (cut: string) => this.#client.run(input, stepsOf(state), { signal, ...(cut ? { cut } : {}) });
    if (state.cut !== EXAMPLE) return run(state.cut);
    return run(exampleCut(state.variant)).catch((error: GroupconvError) => {
      if (error.violations[0]?.field !== "cut") throw error;
      return run(""); // one worker, or more workers than rows
    });
  }

  /** Resolves once the server answers; rejects as long as it does not. */
  async reached(): Promise<void> {
    try {
      await this.#client.status({ timeout: 5 });
    } catch (error) {
      if ((error as GroupconvError).status === "UNAVAILABLE") throw error;
    }
  }
}
