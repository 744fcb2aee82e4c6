/** Starts the page. */

import { render } from "preact";
import { App } from "./view/App";
import "./style.css";

render(<App />, document.getElementById("app")!);
