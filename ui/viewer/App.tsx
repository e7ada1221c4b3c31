/** The run viewer's front, served on 9081. A page: a file in pages/, a line in PAGES, a Route. */
import { Route, Switch } from "wouter";
import { FreshAfterStale } from "../shared/App.tsx";
import { NotFound } from "../shared/components/NotFound.tsx";
import { type Page, Shell } from "../shared/components/Shell.tsx";
import { useAddresses } from "../shared/others.ts";
import { Corrections } from "./pages/Corrections.tsx";
import { Run } from "./pages/Run.tsx";
import { Runs } from "./pages/Runs.tsx";
import { Versions } from "./pages/Versions.tsx";

const PAGES: readonly Page[] = [
  { path: "/", name: "Runs", also: "/runs" },
  { path: "/versions", name: "Versions" },
  { path: "/corrections", name: "Corrections" },
];

export function App() {
  const addresses = useAddresses();
  return (
    <Shell pages={PAGES} {...(addresses && { other: { name: "Draw", href: addresses.draw } })}>
      <FreshAfterStale />
      <Switch>
        <Route path="/">
          <Runs />
        </Route>
        <Route path="/versions">
          <Versions />
        </Route>
        <Route path="/corrections">
          <Corrections />
        </Route>
        <Route path="/runs/:id">
          {({ id }) => (/^\d+$/.test(id) ? <Run key={id} runId={Number(id)} /> : <NotFound />)}
        </Route>
        <Route>
          <NotFound />
        </Route>
      </Switch>
    </Shell>
  );
}
