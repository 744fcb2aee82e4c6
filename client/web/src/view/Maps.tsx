/** Input and output side by side, with the window that made an output pixel. */

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { COLOR, number, shown } from "../model/shown";
import { looksOf } from "../model/palette";
import { outputNear, tapsAt } from "../model/windows";
import { Tiles, tilesOf } from "./Tiles";
import type { Made } from "./useConvolution";

/** An output pixel; the middle one where y and x are −1. */
export interface Spot {
  readonly y: number;
  readonly x: number;
  readonly channel: number;
}

/** The spot on an output that may be smaller than the one it was chosen on. */
export function spotOn(made: Made, spot: Spot): Spot {
  const [channels, height, width] = made.output.shape as [number, number, number];
  const within = (at: number, extent: number) => (at < 0 ? extent >> 1 : Math.min(at, extent - 1));
  return { y: within(spot.y, height), x: within(spot.x, width), channel: Math.min(spot.channel, channels - 1) };
}

/** The server's value at a spot. */
export function valueAt(made: Made, spot: Spot): number {
  const [, height, width] = made.output.shape as [number, number, number];
  return made.output.numbers()[(spot.channel * height + spot.y) * width + spot.x]!;
}

const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};
/** Pixels of a move with Shift. */
const STRIDE = 8;

export function Maps(props: { made: Made; spot: Spot; setSpot: (spot: Spot) => void; stale: boolean }) {
  const { made, setSpot } = props;
  const [color, setColor] = useState(true);
  const [tiled, setTiled] = useState(false);
  const spot = spotOn(made, props.spot);
  const [channels, height, width] = made.output.shape as [number, number, number];
  const inColor = color && channels === 3;
  const result = useMemo(() => shown(made.output, inColor ? COLOR : spot.channel), [made, inColor, spot.channel]);
  const size = made.input.shown.width;
  const [rows, columns] = [tapsAt(made.geometries, 0, spot.y), tapsAt(made.geometries, 1, spot.x)];
  const step = made.report.plan.steps.at(-1)!;
  const looks = looksOf(made.report.plan.workers);

  const move = (event: KeyboardEvent) => {
    const by = MOVES[event.key];
    if (!by) return;
    event.preventDefault();
    const far = event.shiftKey ? STRIDE : 1;
    const within = (at: number, extent: number) => Math.min(extent - 1, Math.max(0, at));
    setSpot({ ...spot, y: within(spot.y + by[0] * far, height), x: within(spot.x + by[1] * far, width) });
  };
  const fromInput = (y: number, x: number) =>
    setSpot({ ...spot, y: outputNear(made.geometries, 0, y), x: outputNear(made.geometries, 1, x) });

  return (
    <section
      class={`maps card ${props.stale ? "stale" : ""}`}
      data-variant={made.state.variant}
      aria-label="Input and output"
    >
      <figure>
        <figcaption>
          <h2>Input</h2>
          <span>
            {made.state.channels} × {size} × {size}
          </span>
        </figcaption>
        <Map pixels={made.input.shown} label="The input image" onPoint={fromInput}>
          {rows.map((y) =>
            columns.map((x) => y !== null && x !== null && <rect class="tap" x={x} y={y} width="1" height="1" />),
          )}
          <Outline rows={rows} columns={columns} />
        </Map>
        <p class="hint">The outlined pixels make the marked output.</p>
      </figure>
      <figure>
        <figcaption>
          <h2>Output</h2>
          <span>
            {channels} × {height} × {width}
          </span>
        </figcaption>
        <div
          class="keys"
          role="application"
          tabIndex={0}
          aria-label={`Output pixel: row ${spot.y}, column ${spot.x}, value ${number(valueAt(made, spot))}. Arrow keys move it.`}
          onKeyDown={move}
        >
          <Map pixels={result.pixels} label="The output" onPoint={(y, x) => setSpot({ ...spot, y, x })}>
            {tiled && (
              <Tiles tiles={tilesOf(step, spot.channel)} looks={looks} height={height} width={width} text={0.05} />
            )}
            <rect class="spot" x={spot.x} y={spot.y} width="1" height="1" />
          </Map>
        </div>
        <p class="hint">{result.scale}. Point at a pixel, or move by arrow keys.</p>
        <div class="toggles">
          {channels > 1 && (
            <div role="group" aria-label="Output channel" class="segments">
              {channels === 3 && (
                <button type="button" aria-pressed={color} onClick={() => setColor(true)}>
                  colors
                </button>
              )}
              {Array.from({ length: Math.min(channels, 12) }, (_, c) => (
                <button
                  key={c}
                  type="button"
                  aria-pressed={!inColor && c === spot.channel}
                  onClick={() => {
                    setColor(false);
                    setSpot({ ...spot, channel: c });
                  }}
                >
                  {c}
                </button>
              ))}
            </div>
          )}
          <label class="check">
            <input type="checkbox" checked={tiled} onChange={(event) => setTiled(event.currentTarget.checked)} />
            Color by worker
          </label>
        </div>
      </figure>
    </section>
  );
}

/** A feature map with drawings over it. The drawings' unit is a pixel of the map. */
function Map(props: {
  pixels: ImageData;
  label: string;
  onPoint: (y: number, x: number) => void;
  children: ComponentChildren;
}) {
  const { pixels, onPoint } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => canvas.current!.getContext("2d")!.putImageData(pixels, 0, 0), [pixels]);
  const point = (event: PointerEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const y = Math.floor(((event.clientY - box.top) / box.height) * pixels.height);
    const x = Math.floor(((event.clientX - box.left) / box.width) * pixels.width);
    if (y >= 0 && x >= 0 && y < pixels.height && x < pixels.width) onPoint(y, x);
  };
  return (
    <div class="map" onPointerMove={point} onPointerDown={point}>
      <canvas ref={canvas} width={pixels.width} height={pixels.height} role="img" aria-label={props.label} />
      <svg viewBox={`0 0 ${pixels.width} ${pixels.height}`} aria-hidden="true" preserveAspectRatio="none">
        {props.children}
      </svg>
    </div>
  );
}

/** The rectangle around all taps. */
function Outline({ rows, columns }: { rows: readonly (number | null)[]; columns: readonly (number | null)[] }) {
  const [ys, xs] = [rows, columns].map((taps) => taps.filter((tap) => tap !== null)) as [number[], number[]];
  if (!ys.length || !xs.length) return null;
  const [top, left] = [Math.min(...ys), Math.min(...xs)];
  const [height, width] = [Math.max(...ys) - top + 1, Math.max(...xs) - left + 1];
  return (
    <>
      <rect class="outline under" x={left} y={top} width={width} height={height} />
      <rect class="outline" x={left} y={top} width={width} height={height} />
    </>
  );
}
