/** The names of cuts: the dimensions along which a convolution can be cut into shards. */

import { InvalidArgumentError } from "../errors.js";

const DIMENSIONS = ["group", "batch", "filter", "width", "slices", "rows", "columns", "channel"];
const NOTHING = "nothing";

/**
 * The name of a cut as the planner writes it: `rows x group` is `group × rows`. Empty for undefined.
 *
 * @throws InvalidArgumentError if it is neither "nothing" nor names of dimensions with ×, * or x between them.
 */
export function cutName(cut: string | undefined): string {
  if (cut === undefined || cut === "") return "";
  const names = typeof cut === "string" ? cut.trim().split(/\s*[×*]\s*|\s+x\s+/) : [];
  if (names.length === 1 && names[0] === NOTHING) return NOTHING;
  if (!names.length || new Set(names).size < names.length || !names.every((name) => DIMENSIONS.includes(name))) {
    const expected = `${NOTHING}, or one or more of ${DIMENSIONS.join(", ")} with × between them`;
    throw InvalidArgumentError.of("cut", expected, cut);
  }
  return DIMENSIONS.filter((name) => names.includes(name)).join(" × ");
}
