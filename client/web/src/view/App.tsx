/** The page: choices on the left, what they give on the right. */

import { useEffect, useState } from "preact/hooks";
import { fromFragment, toFragment, type State } from "../model/state";
import { Choices } from "./Choices";
import { Header } from "./Header";
import { Maps, type Spot } from "./Maps";
import { Notice } from "./Notice";
import { Numbers } from "./Numbers";
import { PlanPanel } from "./PlanPanel";
import { useConvolution } from "./useConvolution";
import { useInput } from "./useInput";
import { WindowPanel } from "./WindowPanel";

export function App() {
  const [state, setState] = useState<State>(() => fromFragment(location.hash.slice(1)));
  const [spot, setSpot] = useState<Spot>({ y: -1, x: -1, channel: 0 });
  const source = useInput(state);
  const convolution = useConvolution(state, source.input);

  useEffect(() => {
    history.replaceState(null, "", `#${toFragment(state)}`);
  }, [state]);
  useEffect(() => {
    const follow = () => setState(fromFragment(location.hash.slice(1)));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);

  const made = convolution.made;
  return (
    <>
      <Header state={state} />
      <main>
        <Choices state={state} setState={setState} source={source} />
        <div class="results">
          <Notice convolution={convolution} camera={source.trouble} />
          {made && (
            <>
              <Maps made={made} spot={spot} setSpot={setSpot} stale={convolution.trouble !== null} />
              <div class="pair">
                <WindowPanel made={made} spot={spot} />
                <Numbers made={made} />
              </div>
              <PlanPanel made={made} cut={state.cut} setCut={(cut) => setState({ ...state, cut })} />
            </>
          )}
        </div>
      </main>
    </>
  );
}
