/** When to try a stream again whose connection is lost: with growing pauses, as long as bands arrive. */

/** Milliseconds without a new band after which a stream without a connection fails. */
const PATIENCE = 60_000;
/** Milliseconds without a connection after which a stream fails that no server has accepted yet. */
const FIRST_PATIENCE = 5_000;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2000;

export class Attempts {
  #done = 0;
  #since = Date.now();
  #pause = FIRST_PAUSE;

  /** @param deadline of all attempts together, in milliseconds of `Date.now()`. */
  constructor(private readonly deadline: number | undefined) {}

  /**
   * Milliseconds to wait before the next attempt; undefined if there is no time for one.
   *
   * @param done output rows that have arrived.
   * @param started whether a server has accepted the stream.
   */
  pause(done: number, started: boolean): number | undefined {
    const now = Date.now();
    if (done > this.#done) [this.#done, this.#since, this.#pause] = [done, now, FIRST_PAUSE];
    const pause = this.#pause;
    this.#pause = Math.min(LONGEST_PAUSE, 2 * pause);
    const end = Math.min(this.#since + (started ? PATIENCE : FIRST_PATIENCE), this.deadline ?? Infinity);
    return now + pause > end ? undefined : pause;
  }
}
