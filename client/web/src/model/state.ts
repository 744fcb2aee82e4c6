/** What the reader has chosen, and its form in a link. */

import { PADDING_MODES, type PaddingMode } from "groupconv";
import { FACTORS, KERNELS, MIXES, resized, type Kernel } from "./kernels";

export const VARIANTS = {
  standard: "standard",
  pointwise: "1×1 (pointwise)",
  grouped: "grouped",
  depthwise: "depthwise",
  depthwiseSeparable: "depthwise separable",
  spatiallySeparable: "spatially separable",
  dilated: "dilated",
  transposed: "transposed",
} as const;
export type Variant = keyof typeof VARIANTS;

export const SIZES = [16, 32, 64, 128] as const;
export const LARGEST_KERNEL = 7;
export const OWN = "your own";

/** The cut that a variant shows until the reader chooses one: images as small as here are seldom worth a cut. */
export const EXAMPLE = "example";
export function exampleCut(variant: Variant): string {
  return variant === "grouped" || variant === "depthwise" ? "group" : "rows";
}

/** All choices. Numbers may be invalid: the error says so. */
export interface State {
  readonly variant: Variant;
  /** Name of a sample; `OWN` or "camera" without one in the link. */
  readonly image: string;
  /** Width and height of the input. */
  readonly size: number;
  /** Channels of the input: 1, 3 or 6. */
  readonly channels: number;
  /** Number of output channels. */
  readonly filters: number;
  readonly groups: number;
  readonly stride: number;
  readonly dilation: number;
  readonly padding: number | "same";
  readonly paddingMode: PaddingMode;
  readonly outputPadding: number;
  /** Name of the kernel, of the factors and of the mixture; `OWN` once a cell was edited. */
  readonly kernel: string;
  readonly cells: readonly number[];
  readonly factors: string;
  readonly column: readonly number[];
  readonly row: readonly number[];
  readonly mix: string;
  /** filters × channels. */
  readonly mixture: readonly number[];
  /** What to cut along; empty leaves it to the planner, `EXAMPLE` shows what workers can do where the planner cuts nothing. */
  readonly cut: string;
}

const BASE: State = {
  variant: "standard",
  image: "astronaut",
  size: 64,
  channels: 3,
  filters: 1,
  groups: 1,
  stride: 1,
  dilation: 1,
  padding: "same",
  paddingMode: "zeros",
  outputPadding: 0,
  kernel: "sobel x",
  cells: KERNELS["sobel x"]!.cells,
  factors: "gaussian",
  ...FACTORS["gaussian"]!,
  mix: "swap red and blue",
  mixture: MIXES["swap red and blue"]!.flat(),
  cut: EXAMPLE,
};

/** What a variant begins with, beside the base. */
const BEGINNINGS: Record<Variant, Partial<State>> = {
  standard: {},
  pointwise: { filters: 3 },
  grouped: { channels: 6, filters: 6, groups: 2, kernel: "sobel x" },
  depthwise: { filters: 3, groups: 3, kernel: "sharpen" },
  depthwiseSeparable: { filters: 3, groups: 3, kernel: "gaussian" },
  spatiallySeparable: { filters: 3, groups: 3 },
  dilated: { dilation: 3, kernel: "laplacian" },
  transposed: { size: 32, filters: 3, groups: 3, stride: 2, padding: 1, kernel: "bilinear" },
};

/** The choices with which a variant begins; the image stays. */
export function beginning(variant: Variant, image: string = BASE.image): State {
  const state = { ...BASE, ...BEGINNINGS[variant], variant, image };
  return { ...state, cells: KERNELS[state.kernel]!.cells };
}

/** Edge of the square kernel. */
export function kernelSize(state: State): number {
  return Math.round(Math.sqrt(state.cells.length));
}

/** The square kernel. */
export function kernelOf(state: State): Kernel {
  return { size: kernelSize(state), cells: state.cells };
}

/** The state with a kernel of another size. */
export function withKernelSize(state: State, size: number): State {
  const { cells } = resized(kernelOf(state), size);
  return { ...state, cells, kernel: OWN };
}

/** The state with another number of filters, whose mixture keeps what it had. */
export function withFilters(state: State, filters: number): State {
  const channels = 3;
  const rows = Number.isInteger(filters) && filters > 0 && filters <= 64 ? filters : 1;
  const mixture = Array.from({ length: rows * channels }, (_, i) => state.mixture[i] ?? 1 / channels);
  return { ...state, filters, mixture, mix: OWN };
}

const NUMBERS = ["size", "channels", "filters", "groups", "stride", "dilation", "outputPadding"] as const;
const LISTS = ["cells", "column", "row", "mixture"] as const;
const TEXTS = ["image", "kernel", "factors", "mix", "cut"] as const;

/** The state as the fragment of a link: what differs from its variant's beginning. */
export function toFragment(state: State): string {
  const start = beginning(state.variant);
  const found = new URLSearchParams({ variant: state.variant });
  const put = (name: string, value: unknown, other: unknown) => {
    if (String(value) !== String(other)) found.set(name, String(value));
  };
  for (const name of [...NUMBERS, ...TEXTS, ...LISTS, "padding", "paddingMode"] as const) {
    put(name, state[name], start[name]);
  }
  return found.toString();
}

/** The state of a link's fragment. What it does not have, or has wrongly, is as its variant begins. */
export function fromFragment(fragment: string): State {
  const given = new URLSearchParams(fragment);
  const variant = given.get("variant") ?? "";
  const start = beginning(Object.hasOwn(VARIANTS, variant) ? (variant as Variant) : "standard");
  const found: Record<string, unknown> = { ...start };
  for (const name of NUMBERS) {
    const value = Number(given.get(name) ?? NaN);
    if (Number.isFinite(value)) found[name] = value;
  }
  for (const name of TEXTS) found[name] = given.get(name) ?? start[name];
  for (const name of LISTS) {
    const values = (given.get(name) ?? "").split(",").map(Number);
    if (given.has(name) && values.every(Number.isFinite)) found[name] = values;
  }
  const padding = given.get("padding");
  if (padding !== null) found.padding = padding === "same" ? padding : Number(padding) || 0;
  const mode = given.get("paddingMode") as PaddingMode;
  if (PADDING_MODES.includes(mode)) found.paddingMode = mode;
  return sound(found as unknown as State, start);
}

/** Lengths that fit each other: a link may have been written by hand. */
function sound(state: State, start: State): State {
  const k = kernelSize(state);
  const square = k * k === state.cells.length && k <= LARGEST_KERNEL;
  const factors = state.column.length === state.row.length && state.row.length <= LARGEST_KERNEL;
  const size = (SIZES as readonly number[]).includes(state.size) ? state.size : start.size;
  const channels = [1, 3, 6].includes(state.channels) ? state.channels : start.channels;
  const mixed = state.mixture.length === state.filters * 3 ? state : start;
  return {
    ...state,
    size,
    channels,
    cells: square ? state.cells : start.cells,
    column: factors ? state.column : start.column,
    row: factors ? state.row : start.row,
    mixture: mixed.mixture,
  };
}
