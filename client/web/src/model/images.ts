/** Images as input tensors: samples that ship, the reader's own, the camera. */

import { Tensor } from "groupconv";
import { OWN } from "./state";

export const CAMERA = "camera";
/** Samples that are files, and samples that are drawn. */
const FILES = ["astronaut", "cat", "coffee"];
const DRAWN: Readonly<Record<string, (y: number, x: number, size: number) => readonly [number, number, number]>> = {
  "one bright pixel": (y, x, size) => (y === size >> 1 && x === size >> 1 ? [1, 1, 1] : [0, 0, 0]),
  checkerboard: (y, x, size) => {
    const cell = Math.max(1, size >> 3);
    return (Math.floor(y / cell) + Math.floor(x / cell)) % 2 ? [0.9, 0.9, 0.9] : [0.1, 0.1, 0.1];
  },
  rings: (y, x, size) => {
    const radius = Math.hypot(y - size / 2 + 0.5, x - size / 2 + 0.5) / size;
    const v = 0.5 + 0.5 * Math.cos(radius * radius * 90);
    return [v, 0.25 + v / 2, 1 - v];
  },
};

export const SAMPLES = [...FILES, ...Object.keys(DRAWN)];

/** Anything that a canvas draws, with its extents. */
export type Picture = CanvasImageSource & { readonly width: number; readonly height: number };

/** The input tensor (channels, size, size) of float32 from 0 to 1, and the colors to show. */
export interface Input {
  readonly tensor: Tensor;
  /** RGBA, size × size. */
  readonly shown: ImageData;
}

/** A sample as an input. */
export async function sample(name: string, size: number, channels: number): Promise<Input> {
  const draw = DRAWN[name];
  if (draw) {
    const pixels = new ImageData(size, size);
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) {
        const color = draw(y, x, size).map((v) => Math.round(v * 255));
        pixels.data.set([...color, 255], (y * size + x) * 4);
      }
    return { tensor: tensorOf(pixels, channels), shown: pixels };
  }
  const file = FILES.includes(name) ? name : FILES[0];
  const response = await fetch(`./samples/${file}.webp`);
  return fromPicture(await createImageBitmap(await response.blob()), size, channels);
}

/** The middle square of a picture as an input. */
export function fromPicture(picture: Picture, size: number, channels: number): Input {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high";
  const edge = Math.min(picture.width, picture.height);
  const [left, top] = [(picture.width - edge) / 2, (picture.height - edge) / 2];
  context.drawImage(picture, left, top, edge, edge, 0, 0, size, size);
  const pixels = context.getImageData(0, 0, size, size);
  return { tensor: tensorOf(pixels, channels), shown: pixels };
}

/** What an input's channels are called. */
export function channelNames(channels: number): string[] {
  const colors = ["red", "green", "blue"];
  if (channels === 1) return ["gray"];
  return channels === 3 ? colors : [...colors, ...colors.map((name) => `1 − ${name}`)];
}

/** 1 channel is gray, 3 are the colors, 6 are the colors and their complements. */
function tensorOf(pixels: ImageData, channels: number): Tensor {
  const area = pixels.width * pixels.height;
  const data = new Float32Array(channels * area);
  for (let i = 0; i < area; i++) {
    const [r, g, b] = [0, 1, 2].map((c) => pixels.data[i * 4 + c]! / 255) as [number, number, number];
    if (channels === 1) {
      data[i] = 0.299 * r + 0.587 * g + 0.114 * b;
      continue;
    }
    [r, g, b].forEach((v, c) => {
      data[c * area + i] = v;
      if (channels === 6) data[(c + 3) * area + i] = 1 - v;
    });
  }
  return new Tensor(data, [channels, pixels.height, pixels.width]);
}

/** Whether an image is in a link, or only on this machine. */
export function isLocal(image: string): boolean {
  return image === OWN || image === CAMERA;
}
