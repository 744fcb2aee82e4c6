/** The protobuf messages and services, for those who make their own calls: `import { ConvolveRequestSchema } from "groupconv/messages"`. */

export * from "./protocol/groupconv/v1/cluster_pb.js";
export * from "./protocol/groupconv/v1/convolution_pb.js";
export * from "./protocol/groupconv/v1/layer_pb.js";
export * from "./protocol/groupconv/v1/memory_pb.js";
export * from "./protocol/groupconv/v1/network_pb.js";
export * from "./protocol/groupconv/v1/plan_pb.js";
export * from "./protocol/groupconv/v1/spec_pb.js";
export * from "./protocol/groupconv/v1/stream_pb.js";
export * from "./protocol/groupconv/v1/tensor_pb.js";
