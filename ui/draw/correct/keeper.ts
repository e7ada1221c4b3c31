/** Where statements wait until the gateway has them: IndexedDB (pictures may be megabytes), else this page's memory. */
import type { Statement } from "./outbox.ts";

export interface Keeper {
  put(statement: Statement): Promise<void>;
  remove(key: string): Promise<void>;
  /** In the order they were made. */
  all(): Promise<Statement[]>;
}

const DATABASE = "emend";
const STORE = "statements";

export class InMemory implements Keeper {
  private readonly kept = new Map<string, Statement>();

  async put(statement: Statement) {
    this.kept.set(statement.key, statement);
  }

  async remove(key: string) {
    this.kept.delete(key);
  }

  async all() {
    return [...this.kept.values()];
  }
}

export class InBrowser implements Keeper {
  private opened: Promise<IDBDatabase> | undefined;

  async put(statement: Statement) {
    await this.within("readwrite", (store) => store.put(statement));
  }

  async remove(key: string) {
    await this.within("readwrite", (store) => store.delete(key));
  }

  async all() {
    const found = await this.within("readonly", (store) => store.getAll() as IDBRequest<Statement[]>);
    return found.sort((one, other) => one.madeAt - other.madeAt);
  }

  private async within<T>(
    mode: IDBTransactionMode,
    act: (store: IDBObjectStore) => IDBRequest<T>,
  ): Promise<T> {
    this.opened ??= open();
    const transaction = (await this.opened).transaction(STORE, mode, { durability: "strict" });
    const request = act(transaction.objectStore(STORE));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
