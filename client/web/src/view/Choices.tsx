/** Everything that the reader chooses: image, variant, kernel, parameters. */

import { PADDING_MODES, type PaddingMode } from "groupconv";
import { useRef } from "preact/hooks";
import { CAMERA, SAMPLES } from "../model/images";
import { beginning, OWN, SIZES, VARIANTS, withFilters, type State, type Variant } from "../model/state";
import { Group, Select, Whole } from "./fields";
import { KernelChoice } from "./KernelChoice";
import type { Source } from "./useInput";

/** Variants whose kernel has its own numbers of channels and groups. */
const FIXED = new Set<Variant>(["pointwise", "depthwiseSeparable", "spatiallySeparable"]);

export function Choices(props: { state: State; setState: (state: State) => void; source: Source }) {
  const { state, setState, source } = props;
  const { variant } = state;
  const file = useRef<HTMLInputElement>(null);
  const set = (change: Partial<State>) => setState({ ...state, ...change });

  const chooseImage = (image: string) => (image === OWN ? file.current!.click() : set({ image }));
  const opened = async (list: FileList | null) => {
    if (list?.[0] && (await source.open(list[0]))) set({ image: OWN });
  };
  const images = [...SAMPLES, OWN, CAMERA].map((name) => [name, name === OWN ? "your own…" : name] as const);
  const paddings = ["same", 0, 1, 2, 3, 4, 5, 6].map((p) => [String(p), String(p)] as const);
  return (
    <form class="choices" aria-label="Choices" onSubmit={(event) => event.preventDefault()}>
      <Group legend="Convolution">
        <Select
          label="Variant"
          value={variant}
          options={Object.entries(VARIANTS)}
          onChange={(value) => setState(beginning(value as Variant, state.image))}
        />
        <KernelChoice state={state} setState={setState} />
      </Group>
      <Group legend="Input">
        <Select label="Image" value={state.image} options={images} onChange={chooseImage} />
        <input
          ref={file}
          class="hidden"
          type="file"
          accept="image/*"
          aria-label="Your own image"
          tabIndex={-1}
          onChange={(event) => opened(event.currentTarget.files)}
        />
        <div class="row">
          <Select
            label="Size"
            value={String(state.size)}
            options={SIZES.map((size) => [String(size), `${size} × ${size}`] as const)}
            onChange={(value) => set({ size: Number(value) })}
          />
          {!FIXED.has(variant) && (
            <Select
              label="Channels"
              value={String(state.channels)}
              options={[
                ["1", "1, gray"],
                ["3", "3, colors"],
                ["6", "6, inverses too"],
              ]}
              onChange={(value) => set(withChannels(state, Number(value)))}
            />
          )}
        </div>
      </Group>
      <Group legend="Parameters">
        <div class="row">
          <Whole label="Stride" min={1} value={state.stride} onChange={(stride) => set({ stride })} />
          {variant !== "pointwise" && (
            <Whole label="Dilation" min={1} value={state.dilation} onChange={(dilation) => set({ dilation })} />
          )}
        </div>
        {variant !== "pointwise" && (
          <div class="row">
            <Select
              label="Padding"
              value={String(state.padding)}
              options={paddings}
              onChange={(value) => set({ padding: value === "same" ? value : Number(value) })}
            />
            {variant === "transposed" ? (
              <Whole
                label="Output padding"
                min={0}
                value={state.outputPadding}
                onChange={(outputPadding) => set({ outputPadding })}
              />
            ) : (
              <Select
                label="Filled with"
                value={state.paddingMode}
                options={PADDING_MODES.map((mode) => [mode, mode] as const)}
                onChange={(value) => set({ paddingMode: value as PaddingMode })}
              />
            )}
          </div>
        )}
        {variant !== "spatiallySeparable" && (
          <div class="row">
            <Whole
              label="Filters"
              min={1}
              value={state.filters}
              onChange={(filters) => setState(FIXED.has(variant) ? withFilters(state, filters) : { ...state, filters })}
            />
            {!FIXED.has(variant) && variant !== "depthwise" && (
              <Whole label="Groups" min={1} value={state.groups} onChange={(groups) => set({ groups })} />
            )}
          </div>
        )}
      </Group>
    </form>
  );
}

/** Other channels of the input; variants with a filter for each channel follow. */
function withChannels(state: State, channels: number): Partial<State> {
  const each = state.variant === "depthwise" || (state.variant === "transposed" && state.groups === state.channels);
  return each ? { channels, filters: channels, groups: channels } : { channels };
}
