/** Extents, weights, multiply-adds and the receptive field, each with its formula filled in. */

import { formulasOf, symbolsOf, totalsOf } from "../model/formulas";
import type { Made } from "./useConvolution";

export function Numbers({ made }: { made: Made }) {
  const { geometries } = made;
  return (
    <section class="card" aria-label="Numbers of this convolution">
      <h2>In numbers</h2>
      <p class="hint">{symbolsOf(geometries)}</p>
      <div class="steps">
        {geometries.map((geometry, i) => (
          <div key={i}>
            {geometries.length > 1 && (
              <h3>
                Step {i + 1}: {geometry.variant}, kernel {geometry.kernel.join(" × ")}
              </h3>
            )}
            <dl>
              {formulasOf(geometry).map(({ name, formula, filled, value }) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>
                    <var>{formula}</var>
                    <span>
                      = {filled} = <strong>{value}</strong>
                    </span>
                  </dd>
                </div>
              ))}
            </dl>
          </div>
        ))}
        {geometries.length > 1 && (
          <div>
            <h3>Both steps</h3>
            <dl>
              {totalsOf(geometries).map(({ name, value }) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>
                    <strong>{value}</strong>
                  </dd>
                </div>
              ))}
            </dl>
          </div>
        )}
      </div>
    </section>
  );
}
