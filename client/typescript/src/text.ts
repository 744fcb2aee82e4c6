/** Values, numbers and tables as readable text, in the words of the Python client. */

/** A value as an error shows it: tuples for arrays, quotes for strings, shape and dtype for tensors; at most 120 characters. */
export function shown(value: unknown): string {
  if (value instanceof Words) return value.text;
  if (isTensor(value)) return `an array ${tuple(value.shape)} ${value.dtype ?? value.data.constructor.name}`;
  const text = repr(value);
  return text.length <= 120 ? text : `${text.slice(0, 80)}… (${text.length} characters)`;
}

/** What came, in words: shown in an error without quotes. */
export class Words {
  constructor(readonly text: string) {}
}

/** A shape as text: `(1, 3)`, and `(3,)` for one extent. */
export function tuple(values: readonly unknown[]): string {
  return values.length === 1 ? `(${repr(values[0])},)` : `(${values.map(repr).join(", ")})`;
}

function repr(value: unknown): string {
  if (Array.isArray(value)) return tuple(value);
  if (typeof value === "string") {
    const quote = value.includes("'") && !value.includes('"') ? '"' : "'";
    return `${quote}${value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll(quote, `\\${quote}`)}${quote}`;
  }
  if (typeof value === "object" && value !== null) {
    const own = value.toString;
    return own !== Object.prototype.toString
      ? own.call(value)
      : JSON.stringify(value, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v));
  }
  return String(value);
}

function isTensor(value: unknown): value is { data: object; shape: readonly number[]; dtype?: string } {
  return (
    typeof value === "object" && value !== null && "shape" in value && "data" in value && Array.isArray(value.shape)
  );
}

/** Rows of cells as aligned text. The first row is the heading. Columns in `left` are left-aligned, others right. */
export function table(rows: readonly (readonly string[])[], left: readonly number[] = []): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  const cells = (row: readonly string[]) =>
    row.map((cell, i) => (left.includes(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)));
  return rows.map((row) => cells(row).join("  ").trimEnd()).join("\n");
}

/** A number and its noun: `2 shards`. */
export function counted(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** A number of bytes with a binary unit: `1.5 KiB`. */
export function humanBytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = count;
  let unit = 0;
  for (; size >= 1024 && unit < units.length - 1; unit++) size /= 1024;
  return `${size >= 100 || Number.isInteger(size) ? size.toFixed(0) : size.toFixed(1)} ${units[unit]}`;
}

/** Seconds as milliseconds with three significant digits: `1.23 ms`. */
export function milliseconds(seconds: number): string {
  const ms = seconds * 1e3;
  return `${ms >= 100 || ms === 0 ? ms.toFixed(0) : String(Number(ms.toPrecision(3)))} ms`;
}

/** An integer with commas: `307,200`. */
export function grouped(number: number): string {
  return number.toLocaleString("en-US");
}
