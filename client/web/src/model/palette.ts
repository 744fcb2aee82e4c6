/** Colors of workers: Okabe and Ito's, as in the project's other pictures, with black or white text. */

const COLORS = ["#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00"] as const;
const WHITE_INK = new Set<string>(["#0072B2"]);

/** How a worker's parts look. Colors repeat after seven workers; names in the tiles tell them apart. */
export interface Look {
  readonly color: string;
  readonly ink: string;
}

/** The look of each worker, by name; the same in all results with the same workers. */
export function looksOf(workers: readonly string[]): Map<string, Look> {
  return new Map(
    [...workers].sort().map((worker, i) => {
      const color = COLORS[i % COLORS.length]!;
      return [worker, { color, ink: WHITE_INK.has(color) ? "#fff" : "#000" }];
    }),
  );
}
