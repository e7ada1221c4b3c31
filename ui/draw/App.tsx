/** The drawing app, served on 9080. A page: a file in pages/, a line in PAGES, a Route. */
import { Route, Switch } from "wouter";
import { FreshAfterStale } from "../shared/App.tsx";
import { NotFound } from "../shared/components/NotFound.tsx";
import { type Page, Shell } from "../shared/components/Shell.tsx";
import { useAddresses } from "../shared/others.ts";
import { Unsent } from "./correct/Unsent.tsx";
import { ModelChoice } from "./model.tsx";
import { Draw } from "./pages/Draw.tsx";
import { History } from "./pages/History.tsx";
import { OneReceipt, Receipts } from "./pages/Receipts.tsx";
import { Upload } from "./pages/Upload.tsx";
import { useRefresh } from "./refresh.ts";

const PAGES: readonly Page[] = [
  { path: "/", name: "Draw" },
  { path: "/upload", name: "Upload" },
  { path: "/receipts", name: "Receipts" },
  { path: "/history", name: "History" },
];

export function App() {
  const addresses = useAddresses();
  useRefresh();
  return (
    <Shell
      pages={PAGES}
      tools={<ModelChoice />}
      {...(addresses && { other: { name: "Runs", href: addresses.viewer } })}
    >
      <FreshAfterStale />
      <Switch>
        <Route path="/">
          <Draw />
        </Route>
        <Route path="/upload">
          <Upload />
        </Route>
        <Route path="/history">
          <History />
        </Route>
        <Route path="/receipts">
          <Receipts />
        </Route>
        <Route path="/receipts/:id">
          <OneReceipt />
        </Route>
        <Route>
          <NotFound />
        </Route>
      </Switch>
      <Unsent />
    </Shell>
  );
}
