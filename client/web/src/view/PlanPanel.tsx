/** How the server cut the work: which worker made which part, with predicted and measured times. */

import type { ShardReport, StepPlan } from "groupconv";
import { looksOf, type Look } from "../model/palette";
import { EXAMPLE, exampleCut, type Variant } from "../model/state";
import { Select } from "./fields";
import { Tiles, tilesOf } from "./Tiles";
import type { Made } from "./useConvolution";

/** Output channels that are drawn. */
const SHEETS = 6;
const CUTS = [EXAMPLE, "", "nothing", "rows", "columns", "group", "filter"];

export function PlanPanel(props: { made: Made; cut: string; setCut: (cut: string) => void }) {
  const { report } = props.made;
  const looks = looksOf(report.plan.workers);
  const cuts = CUTS.includes(props.cut) ? CUTS : [...CUTS, props.cut];
  return (
    <section class="card plan" aria-label="The plan">
      <div class="heading">
        <h2>How it is cut over the workers</h2>
        <Select
          label="Cut along"
          value={props.cut}
          options={cuts.map((cut) => [cut, nameOf(cut, props.made.state.variant)] as const)}
          onChange={props.setCut}
        />
      </div>
      <ul class="legend" aria-label="Workers">
        {[...looks].map(([worker, look]) => (
          <li key={worker}>
            <span class="swatch" style={{ background: look.color }} /> {worker}
          </li>
        ))}
      </ul>
      {report.plan.steps.map((step, i) => (
        <Step
          key={i}
          step={step}
          index={i}
          reports={report.steps[i] ?? []}
          looks={looks}
          only={report.plan.steps.length === 1}
        />
      ))}
      <p class="hint">
        Server:{" "}
        {Object.entries(report.phases)
          .map(([name, seconds]) => `${name} ${time(seconds)}`)
          .join(", ")}
        .
      </p>
    </section>
  );
}

function Step(props: {
  step: StepPlan;
  index: number;
  reports: readonly ShardReport[];
  looks: ReadonlyMap<string, Look>;
  only: boolean;
}) {
  const { step, index, reports, looks } = props;
  const [, channels, height, width] = step.outputShape as [number, number, number, number];
  return (
    <div class="step">
      {!props.only && (
        <h3>
          Step {index + 1}: {step.variant}
        </h3>
      )}
      <p>
        Cut along <strong>{step.cut}</strong>: {step.reason}.
      </p>
      <div class="sheets">
        {Array.from({ length: Math.min(channels, SHEETS) }, (_, channel) => (
          <figure key={channel}>
            <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={described(step, channel)}>
              <Tiles tiles={tilesOf(step, channel)} looks={looks} height={height} width={width} text={0.14} />
            </svg>
            <figcaption>channel {channel}</figcaption>
          </figure>
        ))}
        {channels > SHEETS && <p class="hint">… and {channels - SHEETS} more channels</p>}
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Shards of step ${index + 1}`}>
        <table>
          <thead>
            <tr>
              <th>Worker</th>
              <th>Output channels, rows, columns</th>
              <th class="number">Multiply-adds</th>
              <th class="number">Predicted</th>
              <th class="number">Measured</th>
              <th class="number">With travel</th>
              <th>Algorithm</th>
            </tr>
          </thead>
          <tbody>
            {step.shards.map((shard, i) => (
              <tr key={i}>
                <td>
                  <span class="swatch" style={{ background: looks.get(shard.worker)?.color }} /> {shard.worker}
                </td>
                <td>
                  {shard.output
                    .slice(1)
                    .map((r) => `${r.start}–${r.stop - 1}`)
                    .join(", ")}
                </td>
                <td class="number">{shard.multiplyAdds.toLocaleString("en-US")}</td>
                <td class="number">{time(shard.seconds)}</td>
                <td class="number">{time(reports[i]?.computeSeconds)}</td>
                <td class="number">{time(reports[i]?.seconds)}</td>
                <td>{reports[i]?.algorithm}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="hint">
        A shard is the part of one worker. Its halo is the input around it that its windows also need. Predicted: before
        the run. Measured: in the worker. With travel: from sending to the answer.
      </p>
      {step.alternatives.length > 0 && (
        <p class="hint">
          Considered as well:{" "}
          {step.alternatives
            .slice(0, 4)
            .map(
              (a) =>
                `${a.cut === "nothing" ? "not cut" : a.cut} (${a.shards} shard${a.shards > 1 ? "s" : ""}, ${time(a.seconds)})`,
            )
            .join("; ")}
          .
        </p>
      )}
    </div>
  );
}

function nameOf(cut: string, variant: Variant): string {
  if (cut === EXAMPLE) return `an example: ${exampleCut(variant)}`;
  return cut === "nothing" ? "nothing: one worker" : cut || "what the planner chooses";
}

function described(step: StepPlan, channel: number): string {
  const parts = tilesOf(step, channel).map((t) => `${t.worker} rows ${t.rows.start} to ${t.rows.stop - 1}`);
  return `Channel ${channel}: ${parts.join(", ")}`;
}

function time(seconds: number | undefined): string {
  if (seconds === undefined) return "";
  return seconds < 1e-3 ? `${(seconds * 1e6).toFixed(0)} µs` : `${(seconds * 1e3).toFixed(1)} ms`;
}
