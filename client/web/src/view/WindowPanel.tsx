/** The window that made an output pixel: each input value, its weight, and the sum. */

import type { Range, StepPlan } from "groupconv";
import { channelNames } from "../model/images";
import { number } from "../model/shown";
import { windowAt, type Part } from "../model/windows";
import { looksOf } from "../model/palette";
import { tilesOf } from "./Tiles";
import { spotOn, valueAt, type Spot } from "./Maps";
import type { Made } from "./useConvolution";

/** Input channels that are shown; a filter of more says so. */
const MOST = 3;

export function WindowPanel(props: { made: Made; spot: Spot }) {
  const { made } = props;
  const spot = spotOn(made, props.spot);
  const found = windowAt(made.state, made.input.tensor, made.geometries, spot);
  const names = channelNames(made.state.channels);
  const looks = looksOf(made.report.plan.workers);
  const workers = workersOf(made.report.plan.steps.at(-1)!, spot);
  const parts = found.channels.slice(0, MOST);
  return (
    <section class="card" aria-label="The window in numbers">
      <h2>One output pixel</h2>
      <p>
        Channel {spot.channel}, row {spot.y}, column {spot.x} is{" "}
        <strong data-testid="value">{number(valueAt(made, spot))}</strong>: the sum of value × weight over the window
        {made.geometries.length > 1 ? ", both steps taken together" : ""}. Computed by{" "}
        {workers.map((worker, i) => (
          <span key={worker} class="by">
            {i > 0 && " and "}
            <span class="swatch" style={{ background: looks.get(worker)?.color }} /> {worker}
          </span>
        ))}
        .
      </p>
      <div class="windows">
        {parts.map((part) => (
          <Grid key={part.channel} part={part} columns={found.columns.length} name={names[part.channel]!} />
        ))}
      </div>
      <p class="sum" data-testid="sum">
        {found.channels
          .map((part) => number(part.sum))
          .join(" + ")
          .replaceAll("+ −", "− ")}{" "}
        = {number(found.sum)}
      </p>
      {found.channels.length > MOST && (
        <p class="hint">
          The first {MOST} of {found.channels.length} channels are shown.
        </p>
      )}
    </section>
  );
}

/** Who made an output pixel; several where each sums some input channels. */
function workersOf(step: StepPlan, { channel, y, x }: Spot): string[] {
  const has = (range: Range, at: number) => range.start <= at && at < range.stop;
  const tiles = tilesOf(step, channel).filter((tile) => has(tile.rows, y) && has(tile.columns, x));
  return [...new Set(tiles.map((tile) => tile.worker))];
}

function Grid({ part, columns, name }: { part: Part; columns: number; name: string }) {
  const rows = part.weights.length / columns;
  return (
    <table class="window">
      <caption>
        {name}: {number(part.sum)}
      </caption>
      <tbody>
        {Array.from({ length: rows }, (_, y) => (
          <tr key={y}>
            {Array.from({ length: columns }, (_, x) => {
              const [value, weight] = [part.values[y * columns + x]!, part.weights[y * columns + x]!];
              const shade = value === null ? undefined : Math.round(Math.min(1, Math.max(0, value)) * 255);
              const style =
                shade === undefined
                  ? {}
                  : { background: `rgb(${shade},${shade},${shade})`, color: shade > 117 ? "#000" : "#fff" };
              return (
                <td key={x} style={style} class={value === null ? "none" : ""}>
                  <span>{value === null ? "none" : value.toFixed(2)}</span>
                  <span>× {number(weight)}</span>
                </td>
              );
            })}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
