/** The files of proto/conformance, as docs/api.md describes them. */

import { readFileSync } from "node:fs";
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";

export interface GeometryCase {
  name: string;
  inputShape: number[];
  kernelShape: number[];
  spec: JsonObject;
  geometry?: {
    outputShape: number[];
    stride: number[];
    padding: [number, number][];
    dilation: number[];
    weights: number;
    multiplyAdds: number;
    receptiveField: number[];
    variant: string;
  };
  error?: { field: string; message: string };
}

export interface OutputCase {
  name: string;
  request: JsonObject;
  output: JsonObject;
  tolerance: number;
}

export interface PlanCase {
  name: string;
  request: JsonObject;
  steps: {
    variant: string;
    inputShape: number[];
    kernelShape: number[];
    outputShape: number[];
    groups: number;
    weights: number;
    multiplyAdds: number;
    cut?: string;
  }[];
}

export interface ErrorCase {
  name: string;
  method: string;
  request: JsonValue;
  status: string;
  field?: string;
  message?: string;
}

export function read<T>(name: string): T[] {
  const url = new URL(`../../../proto/conformance/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(url, "utf8")) as T[];
}
