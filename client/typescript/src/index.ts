/** What both entries of the package have: everything but `connect`. */

export { Client, type LoadOptions, type PlanOptions } from "./client.js";
export { Geometry, resolve } from "./convolution/geometry.js";
export { Plan, type Alternative, type Range, type Shard, type StepPlan } from "./convolution/plan.js";
export { Report, type Result, type ShardReport } from "./convolution/report.js";
export {
  ACTIVATIONS,
  Activation,
  ConvSpec,
  PADDING_MODES,
  PADDING_RULES,
  type ActivationKind,
  type FactorMath,
  type Padding,
  type PaddingMode,
  type PaddingRule,
  type Pair,
  type PerAxis,
  type SpecOptions,
} from "./convolution/spec.js";
export { type Step } from "./convolution/steps.js";
export { receptiveField, type HasWindows, type Window } from "./convolution/windows.js";
export * from "./errors.js";
export { Layer } from "./layer.js";
export { LayerInfo } from "./wire/layers.js";
export {
  type CallOptions,
  type ConvOptions,
  type ConvolveOptions,
  type ConvTransposeOptions,
  type SeparableOptions,
  type StreamConvOptions,
  type StreamOptions,
} from "./options.js";
export { type DType, type TypedArray } from "./tensors/dtypes.js";
export { Tensor, type Nested, type TensorLike } from "./tensors/tensor.js";
export { type CallLimits } from "./transport/calls.js";
export { BandStream } from "./streaming/stream.js";
export { type StreamSource } from "./streaming/rows.js";
export { type Band } from "./streaming/transfer.js";
export { NetworkCuts, type Box, type TensorCut } from "./networks/cuts.js";
export { NetworkInfo, TensorInfo } from "./networks/info.js";
export { NetworkState, type NetworkPhase } from "./networks/state.js";
export { Network, type NetworkInputs, type NetworkPlanOptions } from "./networks/network.js";
export {
  NetworkPlan,
  NetworkReport,
  type ExchangeReport,
  type NetworkResult,
  type NodePlan,
  type PartReport,
} from "./networks/plan.js";
