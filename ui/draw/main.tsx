import { start } from "../shared/App.tsx";
import { App } from "./App.tsx";

start(<App />);
