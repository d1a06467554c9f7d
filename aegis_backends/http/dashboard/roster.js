// All services with their instances, page by page.

import { ask } from "./api.js";

const PAGE = 200;

export async function loadServices() {
  const services = [];
  let more = true;
  while (more) {
    const page = await ask("services", { limit: PAGE, offset: services.length });
    services.push(...page.services);
    more = page.has_more && page.services.length > 0;
  }
  return services;
}
