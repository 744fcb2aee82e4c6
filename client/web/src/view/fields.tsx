/** Labeled controls. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { number } from "../model/shown";

/** Columns from which the text of cells is small. */
const MANY = 5;

/** A choice among few. */
export function Select(props: {
  label: string;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange: (value: string) => void;
}) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <select id={id} value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
        {props.options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

/** A whole number. It may be wrong: the error says so. */
export function Whole(props: { label: string; value: number; min: number; onChange: (value: number) => void }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <input
        id={id}
        type="number"
        step="1"
        min={props.min}
        value={props.value}
        onInput={(event) => {
          const { value, valueAsNumber } = event.currentTarget;
          if (value !== "" && Number.isFinite(valueAsNumber)) props.onChange(valueAsNumber);
        }}
      />
    </div>
  );
}

/** A group of controls with a heading. */
export function Group({ legend, children }: { legend: string; children: ComponentChildren }) {
  return (
    <fieldset>
      <legend>{legend}</legend>
      {children}
    </fieldset>
  );
}

/** A grid of numbers that are edited cell by cell. */
export function Cells(props: {
  label: string;
  columns: number;
  values: readonly number[];
  nameOf: (row: number, column: number) => string;
  onChange: (values: number[]) => void;
}) {
  const edit = (index: number, text: string) => {
    const value = Number(text.replace("−", "-").replace(",", "."));
    if (text.trim() === "" || !Number.isFinite(value)) return;
    props.onChange(props.values.map((v, i) => (i === index ? value : v)));
  };
  return (
    <div
      class={`cells ${props.columns >= MANY ? "small" : ""}`}
      role="group"
      aria-label={props.label}
      style={{ "--columns": props.columns }}
    >
      {props.values.map((value, i) => (
        <input
          key={i}
          type="text"
          inputMode="decimal"
          autocomplete="off"
          aria-label={props.nameOf(Math.floor(i / props.columns) + 1, (i % props.columns) + 1)}
          value={number(value)}
          onChange={(event) => edit(i, event.currentTarget.value)}
        />
      ))}
    </div>
  );
}
