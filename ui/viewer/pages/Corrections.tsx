/**
 * What people said, as images: what was set aside, for a person to decide of; what waits for the next run; what was
 * decided, and by whom. One by one or many; by mouse, finger or keyboard alone.
 */
import {
  type InfiniteData,
  useInfiniteQuery,
  useMutation,
  useQuery,
  useQueryClient,
} from "@tanstack/react-query";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, memo, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { gateway } from "../../shared/api/client.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Confirm } from "../../shared/components/Confirm.tsx";
import { LocalTime } from "../../shared/components/LocalTime.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { StatusMark } from "../../shared/components/StatusMark.tsx";
import { Empty, Failed } from "../../shared/components/states.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { count, counted } from "../../shared/format.ts";
import {
  type Action,
  askCorrections,
  type CorrectionFilter,
  type Decision,
  type ListedCorrection,
  review,
  shownAt,
} from "../data.ts";
import { Filter } from "../parts/Filter.tsx";
import { Head, LoadingPage, NoModel } from "../parts/Head.tsx";
import { LabelPicker } from "../parts/LabelPicker.tsx";
import { useOverview } from "../runs.ts";
import { indexOf, meant, move, NOTHING, range, type Selection, toggled, without } from "../selection.ts";
import "./Corrections.css";

const AT_ONCE = 500; // decisions a request, as the gateway has it
const MANY = 10; // more than this are asked about once more
const FRESH_MS = 15_000; // corrections come in without a transition

type Show = "aside" | "waiting" | "decided";
const SHOWN: readonly (readonly [Show, string])[] = [
  ["aside", "Set aside"],
  ["waiting", "Waiting"],
  ["decided", "Decided"],
];

export function Corrections() {
  const overview = useOverview();
  const [wanted] = useParameter("model");
  const [show, setShow] = useParameter("show");
  const models = overview.data?.models ?? [];
  const model = wanted === null ? models[0] : models.find(({ name }) => name === wanted);
  const now: Show = show === "waiting" || show === "decided" ? show : "aside";
  const counts: Partial<Record<Show, number>> = model
    ? { aside: model.quarantined, waiting: model.waiting.corrections }
    : {};
  return (
    <div className="stack corrections">
      <Head title="Corrections" models={overview.isPending ? null : models.map(({ name }) => name)} />
      {model && (
        <fieldset className="corrections-tabs">
          <legend className="aloud">Which corrections</legend>
          {SHOWN.map(([key, word]) => (
            <button
              key={key}
              type="button"
              aria-pressed={key === now}
              onClick={() => setShow(key === "aside" ? null : key)}
            >
              {word}
              {counts[key] !== undefined && <span className="number"> {counts[key]}</span>}
            </button>
          ))}
        </fieldset>
      )}
      {overview.isError && !overview.data && (
        <Failed
          what="The models could not be loaded"
          error={overview.error}
          retry={() => void overview.refetch()}
        />
      )}
      {overview.isPending && <LoadingPage what="the corrections" />}
      {overview.isSuccess && !model && <NoModel wanted={wanted} />}
      {model && <Inbox key={`${model.name} ${now}`} model={model.name} show={now} whole={counts[now]} />}
    </div>
  );
}

/** "conflict" of "conflict: another person gave this image another label": how the reason of many begins. */
const kindOf = (reason: string | null): string =>
  (/^a reviewer says/.exec(reason ?? "")?.[0] ?? reason ?? "").split(":")[0]?.trim() ?? "";

const ASKED: Record<Show, Pick<CorrectionFilter, "status" | "reviewed">> = {
  aside: { status: "quarantined", reviewed: false },
  waiting: { status: "accepted", reviewed: null },
  decided: { status: null, reviewed: true },
};

type Pages = InfiniteData<{ items: ListedCorrection[]; next_before: string | null }, string | null>;

function useCorrections(filter: Partial<CorrectionFilter>) {
  const query = useInfiniteQuery({
    queryKey: ["corrections", filter],
    queryFn: ({ pageParam, signal }) => askCorrections(filter, pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_before,
    refetchInterval: ({ state }) => ((state.data?.pages.length ?? 0) > 2 ? false : FRESH_MS),
  });
  const items = useMemo(() => query.data?.pages.flatMap((page) => page.items) ?? [], [query.data]);
  return { query, items };
}

interface InboxProps {
  model: string;
  show: Show;
  /** How many there are, unfiltered, if known. */
  whole: number | undefined;
}

function Inbox({ model, show, whole }: InboxProps) {
  const [reason] = useParameter("reason");
  const [label] = useParameter("label");
  const [source] = useParameter("source");
  const filter = useMemo(
    () => ({ model, ...ASKED[show], reason, label, source }),
    [model, show, reason, label, source],
  );
  const { query, items } = useCorrections(filter);
  const categories = useQuery({
    queryKey: ["models", model],
    queryFn: ({ signal }) => gateway.get("/models/{name}", { path: { name: model }, signal }),
  }).data?.categories.flatMap(({ name, state }) => (state === "retired" ? [] : [name]));
  const reasons = [...new Set([...items.map((item) => kindOf(item.reason)), reason ?? ""])].filter(Boolean);
  const more = useCallback(() => {
    if (query.hasNextPage && !query.isFetchingNextPage) void query.fetchNextPage();
  }, [query.hasNextPage, query.isFetchingNextPage, query.fetchNextPage]);
  const isFiltered = reason !== null || label !== null || source !== null;
  return (
    <>
      {(isFiltered || items.length > 0) && (
        <div className="row corrections-filters">
          {show !== "waiting" && (
            <Filter
              name="Why"
              parameter="reason"
              all="Any reason"
              options={reasons.map((one) => [one, one])}
            />
          )}
          <Filter
            name="Category"
            parameter="label"
            all="Every category"
            options={(categories ?? []).map((name) => [name, name])}
          />
          <Filter
            name="Source"
            parameter="source"
            all="Any source"
            options={[
              ["correction", "People"],
              ["sample", "Samples"],
              ["review", "Reviews"],
            ]}
          />
        </div>
      )}
      {query.isPending && <LoadingPage what="the corrections" />}
      {query.isError && items.length === 0 && (
        <Failed
          what="The corrections could not be loaded"
          error={query.error}
          retry={() => void query.refetch()}
        />
      )}
      {query.isSuccess && items.length === 0 && !query.hasNextPage && (
        <Nothing show={show} isFiltered={isFiltered} />
      )}
      {items.length > 0 && (
        <Decide
          filter={filter}
          show={show}
          items={items}
          categories={categories ?? []}
          more={more}
          whole={isFiltered ? undefined : whole}
        />
      )}
    </>
  );
}

function Nothing({ show, isFiltered }: { show: Show; isFiltered: boolean }) {
  if (isFiltered)
    return (
      <Empty title="No correction is like that">
        <p>Choose other filters above.</p>
      </Empty>
    );
  if (show === "aside")
    return (
      <Empty title="Nothing is set aside">
        <p>What people disagree about, and what cannot be used as it is, comes here for you to look at.</p>
      </Empty>
    );
  if (show === "waiting")
    return (
      <Empty title="No correction waits">
        <p>
          What people say in the drawing app comes here, and the next run takes it in.{" "}
          <Link href="/">To the runs</Link>
        </p>
      </Empty>
    );
  return (
    <Empty title="Nothing has been decided yet">
      <p>What you accept, relabel or reject is then listed here: by whom, and when.</p>
    </Empty>
  );
}

const DONE: Record<Action, string> = { accept: "accepted", relabel: "relabelled", reject: "rejected" };
const KEYS: Record<string, Action> = { a: "accept", r: "relabel", x: "reject" };

interface DecideProps {
  filter: Partial<CorrectionFilter>;
  show: Show;
  items: readonly ListedCorrection[];
  categories: readonly string[];
  more: () => void;
  whole: number | undefined;
}

function Decide({ filter, show, items, categories, more, whole }: DecideProps) {
  const queries = useQueryClient();
  const [selection, setSelection] = useState<Selection>(NOTHING);
  const [asking, setAsking] = useState<Action | null>(null);
  const [label, setLabel] = useState<string | null>(null);
  const ids = useMemo(() => items.map(({ correction_id }) => correction_id), [items]);
  const wanted = useMemo(() => meant(selection, ids), [selection, ids]);
  const chosen = useMemo(() => {
    const all = new Set(wanted);
    return items.filter(({ correction_id }) => all.has(correction_id));
  }, [items, wanted]);
  const canDecide = show !== "decided";

  const deciding = useMutation({
    mutationFn: async (decisions: Decision[]) => {
      for (let from = 0; from < decisions.length; from += AT_ONCE) {
        await review(decisions.slice(from, from + AT_ONCE));
      }
      return decisions;
    },
    onSuccess: (decisions) => {
      const gone = new Set(decisions.map(({ correction_id }) => correction_id));
      setSelection(without(selection, ids, gone));
      setAsking(null);
      setLabel(null);
      const [first] = decisions;
      if (first)
        say(
          `${counted(gone.size, "correction")} ${DONE[first.action]}${first.label ? ` as ${first.label}` : ""}`,
        );
      // Gone from the page at once; the services' own word comes after.
      queries.setQueryData<Pages>(
        ["corrections", filter],
        (pages) =>
          pages && {
            ...pages,
            pages: pages.pages.map((page) => ({
              ...page,
              items: page.items.filter(({ correction_id }) => !gone.has(correction_id)),
            })),
          },
      );
    },
    onError: (error) => {
      if (asking === null) say(error.message, "bad");
    },
    onSettled: () => {
      void queries.invalidateQueries({ queryKey: ["corrections"] });
      void queries.invalidateQueries({ queryKey: ["overview"] });
    },
  });

  const decide = (action: Action, as: string | null = null) =>
    deciding.mutate(
      wanted.map((correction_id) => ({ correction_id, action, ...(as !== null && { label: as }) })),
    );
  const begin = (action: Action) => {
    if (wanted.length === 0 || deciding.isPending || whyNot(action, show, chosen)) return;
    if (action === "relabel" || wanted.length > MANY) setAsking(action);
    else decide(action);
  };

  return (
    <>
      {canDecide && (
        <div className="corrections-bar">
          <div className="row corrections-count">
            <p role="status">
              {selection.chosen.size > 0 ? `${selection.chosen.size} chosen` : loadedOf(items.length, whole)}
            </p>
            <Button
              kind="quiet"
              onClick={() =>
                setSelection(
                  selection.chosen.size > 0
                    ? { ...selection, chosen: new Set() }
                    : { ...selection, chosen: new Set(ids) },
                )
              }
            >
              {selection.chosen.size > 0
                ? "Choose none"
                : `Choose ${items.length === 1 ? "it" : `all ${items.length}`}`}
            </Button>
          </div>
          <div className="row corrections-actions">
            {show === "aside" && (
              <Button
                kind="primary"
                because={whyNot("accept", show, chosen)}
                busy={deciding.isPending}
                onClick={() => begin("accept")}
              >
                Accept <kbd>A</kbd>
              </Button>
            )}
            <Button
              because={whyNot("relabel", show, chosen)}
              busy={deciding.isPending}
              onClick={() => begin("relabel")}
            >
              Relabel <kbd>R</kbd>
            </Button>
            <Button
              kind="danger"
              because={whyNot("reject", show, chosen)}
              busy={deciding.isPending}
              onClick={() => begin("reject")}
            >
              Reject <kbd>X</kbd>
            </Button>
          </div>
        </div>
      )}
      <Grid
        items={items}
        ids={ids}
        selection={selection}
        setSelection={setSelection}
        canChoose={canDecide}
        begin={begin}
        more={more}
        canAccept={show === "aside"}
        tileHeight={show === "waiting" ? PLAIN_TILE_HEIGHT : TILE_HEIGHT}
      />
      <Confirm
        open={asking === "relabel"}
        title={`What ${wanted.length === 1 ? "is it" : `are these ${wanted.length}`} really?`}
        confirm={label === null ? "Relabel" : `Relabel as ${label}`}
        busy={deciding.isPending}
        error={deciding.error}
        onConfirm={() => label !== null && decide("relabel", label)}
        onClose={() => setAsking(null)}
      >
        <div className="corrections-asked">
          {chosen.slice(0, 5).map((item) => (
            <Pixels
              key={item.correction_id}
              src={shownAt(item.image)}
              alt={`said to be ${item.label}`}
              size={56}
            />
          ))}
        </div>
        <LabelPicker
          categories={categories}
          value={label}
          onChange={setLabel}
          onEnter={() => label !== null && decide("relabel", label)}
        />
        <p className="small soft">
          Your label then stands above what others said of the same image. The next run takes it in.
        </p>
      </Confirm>
      <Confirm
        open={asking === "accept" || asking === "reject"}
        title={`${asking === "accept" ? "Accept" : "Reject"} ${wanted.length} corrections?`}
        confirm={asking === "accept" ? "Accept them" : "Reject them"}
        kind={asking === "accept" ? "primary" : "danger"}
        busy={deciding.isPending}
        error={deciding.error}
        onConfirm={() => asking && decide(asking)}
        onClose={() => setAsking(null)}
      >
        <p>
          {asking === "accept"
            ? "Each label stands, above what others said of the same image. The next run takes them in."
            : "They stay out for good: no run learns from them."}
        </p>
      </Confirm>
    </>
  );
}

/** "200 of 825": the rest is asked for when one scrolls there. */
function loadedOf(loaded: number, whole: number | undefined): string {
  return whole !== undefined && whole > loaded ? `${count(loaded)} of ${count(whole)}` : count(loaded);
}

function whyNot(action: Action, show: Show, chosen: readonly ListedCorrection[]): string | undefined {
  if (chosen.length === 0) return "Choose images first";
  if (show === "waiting" && action === "accept") return "They are accepted already";
  if (action !== "reject" && chosen.some(({ source }) => source === "sample"))
    return "A sample can only be rejected";
  return undefined;
}
interface GridProps {
  items: readonly ListedCorrection[];
  ids: readonly string[];
  selection: Selection;
  setSelection: (selection: Selection) => void;
  canChoose: boolean;
  begin: (action: Action) => void;
  more: () => void;
  tileHeight: number;
  canAccept: boolean;
}

const TILE_WIDTH = 148;
const NARROW_TILE = 108;
const TILE_HEIGHT = 224; // a reason takes three lines
const PLAIN_TILE_HEIGHT = 160;

function Grid({
  items,
  ids,
  selection,
  setSelection,
  canChoose,
  begin,
  more,
  tileHeight,
  canAccept,
}: GridProps) {
  const place = useRef<HTMLUListElement>(null);
  const [{ top, width }, setPlace] = useState({ top: 0, width: 1000 });
  useEffect(() => {
    const measure = () => {
      const box = place.current?.getBoundingClientRect();
      if (box) setPlace({ top: box.top + scrollY, width: box.width });
    };
    const watcher = new ResizeObserver(measure);
    watcher.observe(document.body);
    measure();
    return () => watcher.disconnect();
  }, []);
  const columns = Math.max(2, Math.floor(width / (width < 560 ? NARROW_TILE : TILE_WIDTH)));
  const rows = Math.ceil(items.length / columns);
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => tileHeight,
    overscan: 3,
    scrollMargin: top,
    scrollPaddingStart: 90, // the bar that stays at the top
    scrollPaddingEnd: 20,
  });
  const shownRows = virtual.getVirtualItems();
  const lastRow = shownRows.at(-1)?.index ?? 0;
  useEffect(() => {
    if (lastRow >= rows - 4) more();
  }, [lastRow, rows, more]);

  const at = ids[indexOf(selection, ids)];
  const hasFocus = useRef(false);
  // The keyboard's place follows the selection, also to a row that was not in the page a moment ago.
  useEffect(() => {
    if (!hasFocus.current || at === undefined) return;
    const input = place.current?.querySelector<HTMLElement>(`[data-id="${CSS.escape(at)}"]`);
    if (input && input !== document.activeElement) input.focus({ preventScroll: true });
  });
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.altKey) return;
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key.toLowerCase() === "a" && canChoose) {
      event.preventDefault();
      setSelection({ ...selection, chosen: new Set(ids) });
      return;
    }
    if (isCommand) return;
    const action = KEYS[event.key.toLowerCase()];
    if (action && canChoose) {
      event.preventDefault();
      begin(action);
      return;
    }
    if (event.key === "Escape") setSelection({ ...selection, chosen: new Set() });
    const next = move(selection, ids, event.key, { columns, extend: event.shiftKey && canChoose });
    if (next === null) return;
    event.preventDefault();
    setSelection(next);
    virtual.scrollToIndex(Math.floor(indexOf(next, ids) / columns));
  };
  const press = useCallback(
    (id: string, isRange: boolean) =>
      setSelection(isRange ? range(selection, ids, id) : toggled(selection, id)),
    [selection, ids, setSelection],
  );
  return (
    <>
      {canChoose && (
        <p className="small soft corrections-keys">
          Keys: arrows move, space chooses, shift chooses a range, {canAccept && "A accepts, "}R relabels, X
          rejects.
        </p>
      )}
      <ul
        ref={place}
        className="corrections-grid"
        style={{ height: virtual.getTotalSize() }}
        aria-label="Corrections"
        onKeyDown={onKeyDown}
        onFocus={() => {
          hasFocus.current = true;
        }}
        onBlur={(event) => {
          if (event.relatedTarget !== null) hasFocus.current = false;
        }}
      >
        {shownRows.flatMap(({ index: row, start }) =>
          items.slice(row * columns, (row + 1) * columns).map((item, column) => (
            <li
              key={item.correction_id}
              className="corrections-place"
              style={{
                width: `${100 / columns}%`,
                height: tileHeight,
                transform: `translate(${100 * column}%, ${start - top}px)`,
              }}
            >
              <Tile
                item={item}
                isChosen={selection.chosen.has(item.correction_id)}
                isAt={item.correction_id === at}
                canChoose={canChoose}
                press={press}
              />
            </li>
          )),
        )}
      </ul>
    </>
  );
}

interface TileProps {
  item: ListedCorrection;
  isChosen: boolean;
  isAt: boolean;
  canChoose: boolean;
  press: (id: string, isRange: boolean) => void;
}

const SOURCES: Record<string, string> = { sample: "sample", review: "by review" };

const Tile = memo(function Tile({ item, isChosen, isAt, canChoose, press }: TileProps) {
  const { correction_id: id, label, reason, source, received_at, reviewed_at, reviewed_by } = item;
  const words = (
    <>
      <Pixels src={shownAt(item.image)} alt={`said to be ${label}`} size={84} />
      <span className="tile-label" title={label}>
        {label}
      </span>
      {!reviewed_at && (
        <span className="tile-line">
          <LocalTime at={received_at} />
          {SOURCES[source] && ` · ${SOURCES[source]}`}
        </span>
      )}
      {reviewed_at ? (
        <span className="tile-decided">
          <StatusMark {...DECIDED[item.review ?? ""]} status={DECIDED[item.review ?? ""]?.status ?? "done"} />
          {item.review === "relabel" && item.reviewed_as && (
            <span className="tile-line">as {item.reviewed_as}</span>
          )}
          <span className="tile-line" title={reviewed_by ?? undefined}>
            by {reviewed_by ?? "somebody"}
          </span>
          <span className="tile-line">
            <LocalTime at={reviewed_at} />
          </span>
        </span>
      ) : (
        reason && (
          <span className="tile-reason" title={reason}>
            {reason}
          </span>
        )
      )}
    </>
  );
  if (!canChoose) return <div className="tile">{words}</div>;
  return (
    <label className="tile tile-choice" data-chosen={isChosen || undefined}>
      <input
        type="checkbox"
        data-id={id}
        checked={isChosen}
        tabIndex={isAt ? 0 : -1}
        onChange={(event) => press(id, (event.nativeEvent as MouseEvent).shiftKey)}
      />
      {words}
    </label>
  );
});

const DECIDED: Record<string, { status: string; word: string }> = {
  accept: { status: "succeeded", word: "Accepted" },
  relabel: { status: "succeeded", word: "Relabelled" },
  reject: { status: "rejected", word: "Rejected" },
};
