/** The API's address, set when the bundle is built; empty where the API serves the console itself. */
declare const __API_URL__: string;

declare module "*.css";

interface ImportMeta {
  readonly env: { readonly BASE_URL: string };
}
