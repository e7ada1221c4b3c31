/** The head of a page: its title, the choice of the model where it is about one, and whether what it shows is live. */
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { Empty, Loading, Stale } from "../../shared/components/states.tsx";
import { Filter } from "./Filter.tsx";
import "./Head.css";

interface HeadProps {
  title: string;
  /** Of a page about one model: to choose from. Null while they are not known: room is kept for them. */
  models?: readonly string[] | null;
}

export function Head({ title, models }: HeadProps) {
  const [wanted] = useParameter("model");
  const [only, ...others] = models ?? [];
  const isChoice = others.length > 0 || (wanted !== null && wanted !== only);
  return (
    <div className="head">
      <h1>{title}</h1>
      {(models === null || only !== undefined) && (
        <div className="head-model">
          {models && isChoice && (
            <Filter name="Model" parameter="model" all={null} options={models.map((name) => [name, name])} />
          )}
          {only !== undefined && !isChoice && (
            <p className="small">
              <span className="soft">Model</span> {only}
            </p>
          )}
        </div>
      )}
      <Stale />
    </div>
  );
}

/** For a page about one model, when there is none, or not the one that the address names. */
export function NoModel({ wanted }: { wanted: string | null }) {
  if (wanted === null)
    return (
      <Empty title="There is no model yet">
        <p>The first one is made when Emend starts; “emend import” makes others from your own images.</p>
      </Empty>
    );
  return (
    <Empty title={`There is no model “${wanted}”`}>
      <p>
        Choose another one, or <Link href="/">see all runs</Link>.
      </p>
    </Empty>
  );
}

/** Of a whole page: it fills the window, so that what stands below does not show and then jump. */
export function LoadingPage({ what }: { what: string }) {
  return (
    <div className="loading-page">
      <Loading what={what} lines={12} />
    </div>
  );
}
