/** How far the programs of a network are. */

/** How far a program is: "waiting", "compiling" and "measuring" while onnxruntime answers, "session" where it goes on to. */
export type NetworkPhase = "waiting" | "compiling" | "measuring" | "program" | "session";

/** Phases, those first that are said of a network that is in several. */
export const PHASES: readonly NetworkPhase[] = ["measuring", "compiling", "program", "session", "waiting"];

/** Who answers the calls of a network with inputs of certain shapes on a worker. */
export class NetworkState {
  constructor(
    readonly phase: NetworkPhase,
    /** Its id; empty before the first call. */
    readonly worker: string,
    /** Of the inputs, by name. */
    readonly shapes: Readonly<Record<string, readonly number[]>>,
    /** Of the kernels that had to be compiled, how many are. */
    readonly compiled: number,
    /** Kernels that had to be compiled; 0 while that is not known. */
    readonly kernels: number,
    /** Why, for people. */
    readonly reason: string,
    /** When the phase began; null before the first call. */
    readonly since: Date | null,
  ) {}

  /** Whether it stays so until another call comes. */
  get settled(): boolean {
    return this.phase !== "compiling" && this.phase !== "measuring";
  }

  toString(): string {
    switch (this.phase) {
      case "compiling": {
        const kernels = this.kernels ? ` ${this.compiled} of ${this.kernels} kernels` : "";
        return `answered by onnxruntime; compiling${kernels}`;
      }
      case "measuring":
        return "answered by onnxruntime; measuring a program beside it";
      case "program":
        return `its own program since ${this.since?.toISOString()}: ${this.reason}`;
      case "session":
        return `stays with onnxruntime: ${this.reason}`;
      default:
        return `answered by onnxruntime; ${this.reason}`;
    }
  }
}

/** The state that a network is said to have: one that is under way, else one that is settled. */
export function foremost(states: readonly NetworkState[], requests: number): NetworkState {
  const none = requests ? "no worker says more" : "not called yet";
  return states.reduce(
    (best, state) => (PHASES.indexOf(state.phase) < PHASES.indexOf(best.phase) || !best.since ? state : best),
    new NetworkState("waiting", "", {}, 0, 0, none, null),
  );
}
