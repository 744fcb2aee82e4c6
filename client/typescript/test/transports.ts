/** A client over each transport. */

import { inject } from "vitest";
import { connect as connectWeb } from "../src/browser.js";
import type { Client } from "../src/client.js";
import { connect } from "../src/node.js";

export const TRANSPORTS: readonly { name: string; open: () => Client }[] = [
  { name: "gRPC", open: () => connect(inject("address")) },
  { name: "Connect", open: () => connectWeb(inject("webAddress")) },
  { name: "gRPC-Web", open: () => connectWeb(inject("webAddress"), { protocol: "grpc-web" }) },
];
