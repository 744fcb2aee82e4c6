/** Starts the page. */

import { render } from "preact";
import { App } from "./view/App";
import "./style/page.css";
import "./style/choices.css";
import "./style/results.css";

render(<App />, document.getElementById("app")!);
