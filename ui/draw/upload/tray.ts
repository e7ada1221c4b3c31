/**
 * The pictures that were put in, each on its way: read, asked, answered, corrected. It stays while other pages are
 * looked at. A few are asked at a time; one that cannot be read says why, one that found nobody is asked again.
 */
import { type ApiError, gateway } from "../../shared/api/client.ts";
import type { Answer } from "../drawing/asker.ts";
import { readable, Unreadable } from "./readable.ts";

export interface Upload {
  id: number;
  model: string;
  name: string;
  /** An object URL of the original. */
  preview: string;
  /** As it is sent; null while it is read, or when it cannot be. */
  data: Blob | null;
  answer: Answer | null;
  /** It is no picture: never sent. */
  unreadable: string | null;
  error: ApiError | null;
  /** Idempotency-Key and label of what was said of it. */
  said: { key: string; label: string } | null;
}

const AT_ONCE = 3;

type Ask = (model: string, data: Blob, name: string) => Promise<Answer>;

export class Tray {
  uploads: readonly Upload[] = [];
  private readonly files = new Map<number, File>();
  private readonly queue: number[] = [];
  private busy = 0;
  private lastId = 0;
  private readonly watchers = new Set<() => void>();

  constructor(
    private readonly ask: Ask,
    private readonly read: (file: File) => Promise<Blob> = readable,
  ) {}

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** Newest first. */
  put(files: Iterable<File>, model: string): void {
    const added: Upload[] = [];
    for (const file of files) {
      const id = ++this.lastId;
      this.files.set(id, file);
      this.queue.push(id);
      added.push({
        id,
        model,
        name: file.name || "pasted picture",
        preview: URL.createObjectURL(file),
        data: null,
        answer: null,
        unreadable: null,
        error: null,
        said: null,
      });
    }
    this.become([...added, ...this.uploads]);
    this.work();
  }

  again(id: number): void {
    this.change(id, { error: null });
    this.queue.push(id);
    this.work();
  }

  say(id: number, said: Upload["said"]): void {
    this.change(id, { said });
  }

  remove(ids: readonly number[]): void {
    for (const upload of this.uploads) {
      if (!ids.includes(upload.id)) continue;
      URL.revokeObjectURL(upload.preview);
      this.files.delete(upload.id);
    }
    this.become(this.uploads.filter(({ id }) => !ids.includes(id)));
  }

  private work(): void {
    while (this.busy < AT_ONCE && this.queue.length > 0) {
      const id = this.queue.shift() as number;
      this.busy++;
      void this.one(id).finally(() => {
        this.busy--;
        this.work();
      });
    }
  }

  private async one(id: number): Promise<void> {
    const file = this.files.get(id);
    const upload = this.uploads.find((each) => each.id === id);
    if (file === undefined || upload === undefined) return; // removed meanwhile
    try {
      const data = upload.data ?? (await this.read(file));
      this.change(id, { data });
      this.change(id, { answer: await this.ask(upload.model, data, upload.name) });
    } catch (error) {
      const { code, message } = error as ApiError;
      if (error instanceof Unreadable || code === "invalid_image") this.change(id, { unreadable: message });
      else this.change(id, { error: error as ApiError });
    }
  }

  private change(id: number, change: Partial<Upload>): void {
    this.become(this.uploads.map((upload) => (upload.id === id ? { ...upload, ...change } : upload)));
  }

  private become(uploads: readonly Upload[]): void {
    this.uploads = uploads;
    for (const watcher of this.watchers) watcher();
  }
}

async function toGateway(model: string, data: Blob, name: string): Promise<Answer> {
  const form = new FormData();
  form.set("model", model);
  form.set("file", data, name);
  return gateway.post("/predict", { form });
}

export const tray = new Tray(toGateway);
