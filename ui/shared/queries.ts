/** The cache that every page asks through: `useQuery({ queryKey: ["models"], queryFn: ... })`. */
import { QueryClient } from "@tanstack/react-query";
import { ApiError } from "./api/client.ts";

export function makeQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 5_000,
        retry: (failures, error) => failures < 3 && error instanceof ApiError && error.isPassing,
        retryDelay: (failures) => Math.min(500 * 2 ** failures, 5_000),
        networkMode: "always", // on this machine: "offline" says nothing
      },
      mutations: { networkMode: "always" },
    },
  });
}
