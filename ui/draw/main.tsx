import { start } from "../shared/App.tsx";
import { App } from "./App.tsx";
import { outbox } from "./correct/outbox.ts";

void outbox.begin();
start(<App />);
