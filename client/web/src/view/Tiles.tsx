/** The parts of a map, each with the color and the name of its worker. */

import type { Range, StepPlan } from "groupconv";
import type { Look } from "../model/palette";

/** What a worker makes of a channel. */
export interface Tile {
  readonly worker: string;
  readonly rows: Range;
  readonly columns: Range;
}

/** The tiles of an output channel. Workers that each sum some input channels make all of it together. */
export function tilesOf(step: StepPlan, channel: number): Tile[] {
  return step.shards
    .filter(({ output }) => output[1]!.start <= channel && channel < output[1]!.stop)
    .map(({ worker, output }) => ({ worker, rows: output[2]!, columns: output[3]! }));
}

export function Tiles(props: {
  tiles: readonly Tile[];
  looks: ReadonlyMap<string, Look>;
  height: number;
  width: number;
  /** Size of the names, as a share of the map. */
  text: number;
}) {
  const { tiles, looks, height, width } = props;
  const text = Math.min(height, width) * props.text;
  return (
    <g class="tiles">
      {tiles.map(({ worker, rows, columns }, i) => {
        const look = looks.get(worker) ?? { color: "#ddd", ink: "#000" };
        const [tall, wide] = [rows.stop - rows.start, columns.stop - columns.start];
        const size = Math.min(text, tall * 0.8, (wide / Math.max(1, worker.length)) * 1.5);
        const label = worker.length * size * 0.58 + size * 0.5;
        return (
          <g key={i}>
            <rect x={columns.start} y={rows.start} width={wide} height={tall} fill={look.color} />
            <rect
              class="label"
              x={columns.start + (wide - label) / 2}
              y={rows.start + (tall - size * 1.3) / 2}
              width={label}
              height={size * 1.3}
              rx={size * 0.2}
              fill={look.color}
            />
            <text
              x={columns.start + wide / 2}
              y={rows.start + tall / 2}
              font-size={size}
              fill={look.ink}
              text-anchor="middle"
              dominant-baseline="central"
            >
              {worker}
            </text>
          </g>
        );
      })}
    </g>
  );
}
