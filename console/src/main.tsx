import { render } from "preact";
import { App } from "./app";
import { dress, listen, resume } from "./state";
import "./style.css";

dress();
listen();
void resume();
const place = document.getElementById("app");
if (place) render(<App />, place);
