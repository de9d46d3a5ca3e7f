// Builds the pages into the Python package. The same sources and lock file give the same bytes, which CI checks.
import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";

const out = "../src/stapo/viewer/static";
await mkdir(out, { recursive: true });
await build({
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
});
await copyFile("src/index.html", `${out}/index.html`);
await copyFile("src/icon.svg", `${out}/icon.svg`);
