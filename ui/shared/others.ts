/** Where the two apps find each other: the server that sends the page says it (core/pages.py), in `pages.json`. */
import { useQuery } from "@tanstack/react-query";

export interface Addresses {
  draw: string;
  viewer: string;
  mlflow: string;
}

export function useAddresses(): Addresses | undefined {
  return useQuery({
    queryKey: ["pages.json"],
    queryFn: async ({ signal }): Promise<Addresses> => (await fetch("pages.json", { signal })).json(),
    staleTime: Number.POSITIVE_INFINITY,
  }).data;
}
