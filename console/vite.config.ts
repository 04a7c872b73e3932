import { defineConfig, type Plugin } from "vite";

declare const process: { env: Record<string, string | undefined> };

/** Where the API is. Empty: where the console comes from. */
const api = (process.env.SOLDIOM_API_URL ?? "").replace(/\/+$/, "");
/** Where a provider of logins hands out its tokens, when there is one. */
const login = process.env.SOLDIOM_LOGIN_URL ? [new URL(process.env.SOLDIOM_LOGIN_URL).origin] : [];

/** Served by the API the policy is a header of its responses; a host of static files learns it from the page. */
const policy: Plugin = {
  name: "content-security-policy",
  transformIndexHtml: () =>
    api
      ? [
          {
            tag: "meta",
            injectTo: "head-prepend",
            attrs: {
              "http-equiv": "Content-Security-Policy",
              content:
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; " +
                `connect-src ${[new URL(api).origin, ...login].join(" ")}; base-uri 'none'; form-action 'none'; ` +
                "require-trusted-types-for 'script'; trusted-types 'none'",
            },
          },
        ]
      : [],
};

export default defineConfig({
  base: "/soldiom/",
  plugins: [policy],
  define: { __API_URL__: JSON.stringify(api) },
  build: {
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: true,
  },
});
