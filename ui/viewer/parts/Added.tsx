/** What a run's dataset version added: how many of what, and the images themselves. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Card } from "../../shared/components/Card.tsx";
import { Empty, Failed, Loading } from "../../shared/components/states.tsx";
import { count, counted } from "../../shared/format.ts";
import { type Added as AddedFigures, askAddedImages } from "../data.ts";
import "./Added.css";
import { ImageGrid } from "./ImageGrid.tsx";

interface Props {
  runId: number;
  datasetVersion: number | null;
  added: AddedFigures;
}

const SPLITS: Record<string, string> = {
  train: "trained on",
  validation: "for validation",
  holdout: "in the holdout",
  regression: "held back",
};

export function Added({ runId, datasetVersion, added }: Props) {
  const [label, setLabel] = useState<string | null>(null);
  const [split, setSplit] = useState<string | null>(null);
  const images = useInfiniteQuery({
    queryKey: ["runs", "images", runId, label, split],
    queryFn: ({ pageParam, signal }) => askAddedImages(runId, { label, split }, pageParam, signal),
    initialPageParam: null as number | null,
    getNextPageParam: (page) => page.next_before,
    staleTime: Number.POSITIVE_INFINITY, // a dataset version never changes
    enabled: added.images > 0,
  });
  const items = images.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Card
      title={
        datasetVersion === null
          ? `New images: ${count(added.images)}`
          : `Dataset ${datasetVersion} added ${counted(added.images, "image")}`
      }
    >
      <p className="soft small">
        {sentence(added.by_source, (source) => source)}
        {Object.keys(added.by_split).length > 0 &&
          `; ${sentence(added.by_split, (one) => SPLITS[one] ?? one)}`}
        {(added.withdrawn ?? 0) > 0 && `; ${counted(added.withdrawn ?? 0, "image")} taken out`}
      </p>
      {added.images > 0 && (
        <>
          <div className="row">
            <Chosen name="Category" value={label} of={added.by_label} choose={setLabel} word={(one) => one} />
            <Chosen
              name="Used"
              value={split}
              of={added.by_split}
              choose={setSplit}
              word={(one) => SPLITS[one] ?? one}
            />
          </div>
          {images.isPending && <Loading what="the images" lines={4} />}
          {images.isError && (
            <Failed
              what="The images could not be loaded"
              error={images.error}
              retry={() => void images.refetch()}
            />
          )}
          {images.isSuccess && items.length === 0 && <Empty title="None is like that" />}
          <ImageGrid
            key={`${label} ${split}`}
            items={items.map(({ sha256, image, label, source, split }) => ({
              key: sha256,
              image,
              alt: `${label ?? "withdrawn"}, ${source}`,
              title: label ?? "withdrawn",
              lines: [source, SPLITS[split] ?? split],
            }))}
            more={images.hasNextPage ? () => void images.fetchNextPage() : undefined}
            isLoading={images.isFetchingNextPage}
          />
        </>
      )}
    </Card>
  );
}

function sentence(counts: Record<string, number>, word: (key: string) => string): string {
  return Object.entries(counts)
    .filter(([, images]) => images > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([key, images]) => `${count(images)} ${word(key)}`)
    .join(", ");
}

interface ChosenProps {
  name: string;
  value: string | null;
  of: Record<string, number>;
  choose: (value: string | null) => void;
  word: (key: string) => string;
}

function Chosen({ name, value, of, choose, word }: ChosenProps) {
  return (
    <label className="added-choice">
      <span className="soft small">{name}</span>
      <select value={value ?? ""} onChange={(event) => choose(event.target.value || null)}>
        <option value="">all</option>
        {Object.entries(of).map(([key, images]) => (
          <option key={key} value={key}>
            {word(key)} ({count(images)})
          </option>
        ))}
      </select>
    </label>
  );
}
