import react from "@vitejs/plugin-react";
import tailwindcss from "@tailwindcss/vite";
import { loadEnv } from "vite";
import { defineConfig } from "vitest/config";

// In development the API comes from a loopbackd: LOOPBACK_URL=https://localhost:8443 npx vite
const api = loadEnv("", ".", "LOOPBACK_").LOOPBACK_URL ?? "https://localhost:8443";

export default defineConfig({
  plugins: [react(), tailwindcss()],
  build: { target: "es2022", sourcemap: false, assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: true },
  // Preact speaks React's API in a fifth of its size: docs/decisions/0003-console.md.
  resolve: { alias: { "react-dom/client": "preact/compat/client", "react-dom": "preact/compat", "react/jsx-runtime": "preact/jsx-runtime", "react/jsx-dev-runtime": "preact/jsx-dev-runtime", react: "preact/compat" } },
  server: { proxy: Object.fromEntries(["/api", "/session", "/oidc"].map((p) => [p, { target: api, secure: false }])) },
  test: { include: ["src/**/*.test.{ts,tsx}"] },
});
