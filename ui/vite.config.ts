// Two pages from one package, built apart: `APP=draw vite build` and `APP=viewer vite build`.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const here = import.meta.dirname;
const app = process.env.APP ?? "draw";

/** A .gz beside every file that is worth it, made once here and not at each request. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    writeBundle(options) {
      const folder = options.dir ?? "";
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
        if (entry.isFile() && /\.(js|css|html|svg|json)$/.test(entry.name)) {
          const path = join(entry.parentPath, entry.name);
          writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
        }
      }
    },
  };
}

export default defineConfig({
  root: process.env.VITEST === undefined ? resolve(here, app) : here,
  base: "./", // works under any prefix
  publicDir: resolve(here, "public"),
  build: {
    outDir: resolve(here, "dist", app),
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    rolldownOptions: {
      onwarn(warning, warn) {
        // "use client" says something to servers that render pages; there is none here.
        if (warning.code !== "MODULE_LEVEL_DIRECTIVE") warn(warning);
      },
    },
  },
  server: {
    proxy: {
      "/api": { target: "http://127.0.0.1:8000", rewrite: (path) => path.replace(/^\/api/, "") },
      "/runs": { target: "http://127.0.0.1:9081", rewrite: (path) => path.replace(/^\/runs/, "") },
    },
  },
  plugins: [compressed()],
  test: {
    environment: "jsdom",
    include: ["**/*.test.{ts,tsx}"],
    setupFiles: ["shared/test-setup.ts"],
    restoreMocks: true,
  },
});
