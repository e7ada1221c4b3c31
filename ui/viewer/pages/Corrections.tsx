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
import { useCallback, useMemo, useState } from "react";
import { Link } from "wouter";
import { useParameter } from "../../shared/address.ts";
import { gateway } from "../../shared/api/client.ts";
import { Button } from "../../shared/components/Button.tsx";
import { Confirm } from "../../shared/components/Confirm.tsx";
import { Pixels } from "../../shared/components/Pixels.tsx";
import { Empty, Failed } from "../../shared/components/states.tsx";
import { say } from "../../shared/components/Toasts.tsx";
import { count, counted, sentence } from "../../shared/format.ts";
import {
  type Action,
  askCorrections,
  type CorrectionFilter,
  type Decision,
  type ListedCorrection,
  review,
  shownAt,
} from "../data.ts";
import { CorrectionGrid } from "../parts/CorrectionGrid.tsx";
import { Filter } from "../parts/Filter.tsx";
import { Head, LoadingPage, NoModel } from "../parts/Head.tsx";
import { LabelPicker } from "../parts/LabelPicker.tsx";
import { useOverview } from "../runs.ts";
import { meant, NOTHING, type Selection, without } from "../selection.ts";
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

/** "conflict" of "conflict: another correction gave this image another label": how the reason of many begins. */
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
      if (asking === null) say(sentence(error.message), "bad");
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

  const close = () => {
    setAsking(null);
    setLabel(null);
    if (!deciding.isPending) deciding.reset(); // what went wrong with these says nothing of the next
  };
  // A key means the image where it is pressed; a button, which is elsewhere, only those that can be seen to be chosen.
  const isChosen = selection.chosen.size > 0;
  const whyNotPressed = (action: Action) => whyNot(action, show, isChosen ? chosen : []);

  return (
    <>
      {canDecide && (
        <div className="corrections-bar">
          <div className="row corrections-count">
            <p role="status">{isChosen ? `${chosen.length} chosen` : loadedOf(items.length, whole)}</p>
            <Button
              kind="quiet"
              onClick={() =>
                setSelection(
                  isChosen ? { ...selection, chosen: new Set() } : { ...selection, chosen: new Set(ids) },
                )
              }
            >
              {isChosen ? "Choose none" : `Choose ${items.length === 1 ? "it" : `all ${items.length}`}`}
            </Button>
          </div>
          <div className="row corrections-actions">
            {show === "aside" && (
              <Button
                kind="primary"
                because={whyNotPressed("accept")}
                busy={deciding.isPending}
                onClick={() => begin("accept")}
              >
                Accept <kbd>A</kbd>
              </Button>
            )}
            <Button
              because={whyNotPressed("relabel")}
              busy={deciding.isPending}
              onClick={() => begin("relabel")}
            >
              Relabel <kbd>R</kbd>
            </Button>
            <Button
              kind="danger"
              because={whyNotPressed("reject")}
              busy={deciding.isPending}
              onClick={() => begin("reject")}
            >
              Reject <kbd>X</kbd>
            </Button>
          </div>
        </div>
      )}
      <CorrectionGrid
        items={items}
        ids={ids}
        selection={selection}
        setSelection={setSelection}
        canChoose={canDecide}
        begin={begin}
        more={more}
        canAccept={show === "aside"}
        hasReasons={show !== "waiting"}
      />
      <Confirm
        open={asking === "relabel"}
        title={`What ${wanted.length === 1 ? "is it" : `are these ${wanted.length}`} really?`}
        confirm={label === null ? "Relabel" : `Relabel as ${label}`}
        busy={deciding.isPending}
        error={deciding.error}
        onConfirm={() => label !== null && decide("relabel", label)}
        onClose={close}
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
        onClose={close}
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
