import { beforeEach, expect, it, vi } from "vitest";
import { ApiError } from "../../shared/api/client.ts";
import type { Answer } from "../drawing/asker.ts";
import { fitted, Unreadable } from "./readable.ts";
import { Tray } from "./tray.ts";

const file = (name: string) => new File([name], name, { type: "image/png" });
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

beforeEach(() => {
  URL.createObjectURL = () => "blob:nothing";
  URL.revokeObjectURL = vi.fn();
});

it("asks of each picture, a few at a time", async () => {
  let [now, most] = [0, 0];
  const tray = new Tray(
    async (_, __, name) => {
      most = Math.max(most, ++now);
      await settled();
      now--;
      return { label: name } as Answer;
    },
    async (each) => each,
  );
  const names = Array.from({ length: 10 }, (_, at) => `${at}.png`);
  tray.put(names.map(file), "photos");
  await vi.waitFor(() => expect(tray.uploads.map(({ answer }) => answer?.label)).toEqual(names));
  expect(most).toBe(3);
});

it("names what cannot be read, here or there, and asks the rest", async () => {
  const tray = new Tray(
    async (_, __, name) => {
      if (name === "cut.png") throw new ApiError(400, "invalid_image", "image file is damaged");
      return { label: "cat" } as Answer;
    },
    async (each) => {
      if (each.name === "letter.txt") throw new Unreadable("it is no picture");
      return each;
    },
  );
  tray.put(["letter.txt", "cut.png", "good.png"].map(file), "photos");
  await settled();
  expect(tray.uploads.map(({ unreadable }) => unreadable)).toEqual([
    "it is no picture",
    "image file is damaged",
    null,
  ]);
  expect(tray.uploads[2]?.answer?.label).toBe("cat");
});

it("asks again after the gateway was away", async () => {
  let away = true;
  const tray = new Tray(
    async () => {
      if (away) throw new ApiError(0, "unreachable", "away");
      return { label: "cat" } as Answer;
    },
    async (each) => each,
  );
  tray.put([file("a.png")], "photos");
  await settled();
  expect(tray.uploads[0]?.error?.code).toBe("unreachable");
  away = false;
  tray.again(1);
  await settled();
  expect(tray.uploads[0]).toMatchObject({ error: null, answer: { label: "cat" } });
});

it("lets go of a picture's memory with it", async () => {
  const tray = new Tray(
    async () => ({ label: "cat" }) as Answer,
    async (each) => each,
  );
  tray.put([file("a.png"), file("b.png")], "photos");
  tray.remove([1]);
  expect(URL.revokeObjectURL).toHaveBeenCalledOnce();
  expect(tray.uploads.map(({ name }) => name)).toEqual(["b.png"]);
});

it("makes large pictures fit, and leaves small ones", () => {
  expect(fitted(4000, 3000)).toEqual([1024, 768]);
  expect(fitted(5000, 2)).toEqual([1024, 1]);
  expect(fitted(28, 28)).toEqual([28, 28]);
});
