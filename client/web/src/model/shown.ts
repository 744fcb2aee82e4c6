/** Output maps as pixels. */

import type { Tensor } from "groupconv";

/** Pixels, and what their brightness means. */
export interface Shown {
  readonly pixels: ImageData;
  readonly scale: string;
}

/** All three output channels as one color image. */
export const COLOR = -1;

/**
 * An output channel, or all as colors. Values from 0 to 1 are shown as they are. Others are scaled, around a middle gray if
 * some are negative.
 */
export function shown(output: Tensor, channel: number): Shown {
  const [channels, height, width] = output.shape.slice(-3) as [number, number, number];
  const data = output.numbers();
  const area = height * width;
  const planes = channel === COLOR && channels === 3 ? [0, 1, 2] : [channel, channel, channel];
  let [low, high] = [Infinity, -Infinity];
  for (const plane of new Set(planes))
    for (let i = 0; i < area; i++) {
      const v = data[plane * area + i]!;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  const most = Math.max(Math.abs(low), Math.abs(high), 1e-9);
  const [zero, range, scale] =
    low < -1e-6
      ? [-most, 2 * most, `black ${number(-most)}, gray 0, white ${number(most)}`]
      : high > 1 + 1e-6
        ? [0, most, `black 0, white ${number(most)}`]
        : [0, 1, "black 0, white 1"];
  const pixels = new ImageData(width, height);
  for (let i = 0; i < area; i++) {
    planes.forEach((plane, c) => (pixels.data[i * 4 + c] = (255 * (data[plane * area + i]! - zero)) / range));
    pixels.data[i * 4 + 3] = 255;
  }
  return { pixels, scale };
}

/** A number in at most three significant digits, with a minus sign. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return String(value).replace("-", "−");
  const text = Math.abs(value) < 5e-4 ? "0" : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}
