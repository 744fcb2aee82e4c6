/** The kernel by name, or cell by cell. */

import { FACTORS, KERNELS, MIXES } from "../model/kernels";
import { kernelSize, LARGEST_KERNEL, OWN, withKernelSize, type State } from "../model/state";
import { Cells, Select } from "./fields";

interface Props {
  state: State;
  setState: (state: State) => void;
}

export function KernelChoice(props: Props) {
  switch (props.state.variant) {
    case "pointwise":
      return <Mixture {...props} />;
    case "spatiallySeparable":
      return <Pair {...props} />;
    case "depthwiseSeparable":
      return (
        <>
          <Square {...props} label="Depthwise kernel" />
          <Mixture {...props} />
        </>
      );
    default:
      return <Square {...props} label="Kernel" />;
  }
}

/** The number of channels that a filter sums. */
function summed({ variant, channels, groups }: State): number {
  return variant.startsWith("depthwise") ? 1 : channels / groups;
}

function Square({ state, setState, label }: Props & { label: string }) {
  const size = kernelSize(state);
  const sizes = Array.from({ length: LARGEST_KERNEL }, (_, i) => String(i + 1));
  return (
    <>
      <div class="row">
        <Select
          label={label}
          value={state.kernel}
          options={named(KERNELS, state.kernel)}
          onChange={(kernel) => kernel !== OWN && setState({ ...state, kernel, cells: KERNELS[kernel]!.cells })}
        />
        <Select
          label="Kernel size"
          value={String(size)}
          options={sizes.map((k) => [k, `${k} × ${k}`] as const)}
          onChange={(value) => setState(withKernelSize(state, Number(value)))}
        />
      </div>
      <Cells
        label="Cells of the kernel"
        columns={size}
        values={state.cells}
        nameOf={(row, column) => `Kernel, row ${row}, column ${column}`}
        onChange={(cells) => setState({ ...state, cells, kernel: OWN })}
      />
      {summed(state) > 1 && (
        <p class="hint">Each weight is a cell divided by {summed(state)}, the channels that a filter sums.</p>
      )}
      {state.filters > 1 && state.filters !== state.groups && (
        <p class="hint">Each further filter of a group is the kernel after a quarter turn.</p>
      )}
    </>
  );
}

function Mixture({ state, setState }: Props) {
  return (
    <>
      <Select
        label="1×1 kernel"
        value={state.mix}
        options={named(MIXES, state.mix)}
        onChange={(mix) => {
          const rows = MIXES[mix];
          if (rows) setState({ ...state, mix, mixture: rows.flat(), filters: rows.length });
        }}
      />
      <Cells
        label="Weights of the mixture"
        columns={3}
        values={state.mixture}
        nameOf={(row, column) => `Output channel ${row - 1}, ${["red", "green", "blue"][column - 1]}`}
        onChange={(mixture) => setState({ ...state, mixture, mix: OWN })}
      />
      <p class="hint">Columns: red, green and blue. A row for each output channel.</p>
    </>
  );
}

function Pair({ state, setState }: Props) {
  const edit = (change: Partial<State>) => setState({ ...state, ...change, factors: OWN });
  return (
    <>
      <Select
        label="Factors"
        value={state.factors}
        options={named(FACTORS, state.factors)}
        onChange={(factors) => factors !== OWN && setState({ ...state, factors, ...FACTORS[factors]! })}
      />
      <div class="factors">
        <div>
          <span class="hint">Column</span>
          <Cells
            label="Cells of the column"
            columns={1}
            values={state.column}
            nameOf={(row) => `Column, row ${row}`}
            onChange={(column) => edit({ column })}
          />
        </div>
        <div>
          <span class="hint">Row</span>
          <Cells
            label="Cells of the row"
            columns={state.row.length}
            values={state.row}
            nameOf={(_, column) => `Row, column ${column}`}
            onChange={(row) => edit({ row })}
          />
        </div>
      </div>
    </>
  );
}

/** The names there are, and the reader's own if it is the present one. */
function named(table: Readonly<Record<string, unknown>>, present: string): (readonly [string, string])[] {
  const names = Object.keys(table);
  return [...names, ...(names.includes(present) ? [] : [present])].map((name) => [name, name] as const);
}
