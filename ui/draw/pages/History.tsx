/** Everything that was answered and recorded, newest first: picture, answer, how sure, version, when, what was corrected. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { useParameter, withKept } from "../../shared/address.ts";
import { type GatewayComponents, gateway } from "../../shared/api/client.ts";
import { Button } from "../../shared/components/Button.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { Empty, Failed, Loading } from "../../shared/components/states.tsx";
import { percent } from "../../shared/format.ts";
import { Word } from "../answer/Word.tsx";
import { useEndless } from "../history/endless.ts";
import { VirtualList } from "../history/VirtualList.tsx";
import { type Model, WithModel } from "../model.tsx";
import "./History.css";

type Item = GatewayComponents["schemas"]["HistoryItem"];

const ROW_PX = 68;
const PAGE = 200;
const LOOK_EVERY_MS = 15_000;
const MOST_VERSIONS = 100;

export function History() {
  return <WithModel title="History">{(model) => <Page model={model} />}</WithModel>;
}

function Page({ model }: { model: Model }) {
  const [label, setLabel] = useParameter("label");
  const [version, setVersion] = useParameter("version");
  const [corrected, setCorrected] = useParameter("corrected");
  const filters = {
    model: model.name,
    label,
    version: version !== null && /^[1-9]\d{0,8}$/.test(version) ? Number(version) : null,
    corrected: corrected === "yes" ? true : corrected === "no" ? false : null,
  };
  const key = ["history", filters];
  const list = useEndless<Item>(key, (before, signal) =>
    gateway.get("/predictions", { query: { ...filters, limit: PAGE, before }, signal }),
  );
  const [newest] = list.items;
  const look = useQuery({
    queryKey: [...key, "newest"],
    queryFn: ({ signal }) => gateway.get("/predictions", { query: { ...filters, limit: 1 }, signal }),
    refetchInterval: LOOK_EVERY_MS,
    enabled: !list.isLoading,
  });
  const newer = look.data?.items[0];
  const hasNewer = newer !== undefined && newer.id > (newest?.id ?? "");
  const isFiltered = label !== null || filters.version !== null || filters.corrected !== null;
  const isFirst = list.items.length === 0;
  return (
    <div className="stack">
      <div>
        <h1>History</h1>
        <p className="soft">
          Every picture that <b>{model.name}</b> answered, newest first. Drafts while drawing are not kept.
        </p>
      </div>
      <search className="history-filters" aria-label="Show only">
        <Filter
          name="Answer"
          value={label}
          change={setLabel}
          options={model.categories.map(({ name }) => [name, name])}
        />
        <Filter name="Version" value={version} change={setVersion} options={versionsOf(model, list.items)} />
        <Filter
          name="Feedback"
          value={corrected}
          change={setCorrected}
          options={[
            ["yes", "given"],
            ["no", "none"],
          ]}
        />
        <p className="history-newer" aria-live="polite">
          {hasNewer && !list.isLoading && (
            <Button
              onClick={() => {
                list.renew();
                scrollTo(0, 0);
              }}
            >
              Show newer answers
            </Button>
          )}
        </p>
      </search>
      {isFirst && list.isLoading && !list.error && <Loading what="the history" lines={10} />}
      {isFirst && list.isDone && (
        <Empty title={isFiltered ? "No answer matches these filters" : "Nothing was asked yet"}>
          {isFiltered ? (
            <Button
              onClick={() => {
                setLabel(null);
                setVersion(null);
                setCorrected(null);
              }}
            >
              Clear the filters
            </Button>
          ) : (
            <Link href={withKept("/")}>Draw something</Link>
          )}
        </Empty>
      )}
      {!isFirst && (
        <div>
          <div className="history-row history-head small soft" aria-hidden="true">
            <span />
            <span>Answer</span>
            <span className="history-sure">Sure</span>
            <span>Version</span>
            <span className="history-time">When</span>
          </div>
          <VirtualList
            name="Answers"
            items={list.items}
            rowKey={(item) => item.id}
            height={ROW_PX}
            more={list.more}
            isOpen={!list.isDone}
            row={(item) => <Row item={item} />}
          />
          <p className="history-end soft small">{list.isDone ? "That is all there is." : "\u00a0"}</p>
        </div>
      )}
      {list.error && (
        <Failed
          what={isFirst ? "The history could not be loaded" : "The rest could not be loaded"}
          error={list.error}
          retry={list.retry}
        />
      )}
    </div>
  );
}

/** After a rollback there are later versions than the live one: those that answered are in the list. */
function versionsOf({ champion }: Model, items: readonly Item[]): [string, string][] {
  const newest = items.reduce((most, { version }) => Math.max(most, version ?? 0), champion?.version ?? 0);
  const oldest = Math.max(1, newest - MOST_VERSIONS + 1);
  return Array.from({ length: newest - oldest + 1 }, (_, at) => [String(newest - at), String(newest - at)]);
}

interface FilterProps {
  name: string;
  value: string | null;
  change: (value: string | null) => void;
  options: [value: string, shown: string][];
}

function Filter({ name, value, change, options }: FilterProps) {
  const isKnown = value === null || options.some(([each]) => each === value);
  return (
    <label className="history-filter">
      <span className="small soft">{name}</span>
      <select value={value ?? ""} onChange={(event) => change(event.target.value || null)}>
        <option value="">any</option>
        {!isKnown && <option value={value}>{value}</option>}
        {options.map(([each, shown]) => (
          <option key={each} value={each}>
            {shown}
          </option>
        ))}
      </select>
    </label>
  );
}

function Row({ item }: { item: Item }) {
  const { id, prediction, corrected, confidence, version, timestamp, filename } = item;
  return (
    <div className="history-row">
      <Pixels
        src={gateway.url("/predictions/{prediction_id}/image", { path: { prediction_id: id } })}
        alt={`What was seen as ${prediction}`}
        size={48}
      />
      <span
        className="history-answer"
        title={corrected === null ? prediction : `${prediction}, corrected to ${corrected}`}
      >
        <Word label={prediction} corrected={corrected} size="small" />
        {filename && (
          <span className="history-file small soft" title={filename}>
            {filename}
          </span>
        )}
      </span>
      <span className="history-sure number">
        {percent(confidence, 0)}
        <span className="history-word"> sure</span>
      </span>
      <span className="history-version small">{version === null ? "unknown" : `version ${version}`}</span>
      <span className="history-time small soft">
        <LocalTime at={timestamp} />
      </span>
    </div>
  );
}
