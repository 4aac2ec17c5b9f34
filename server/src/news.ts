/** How long `changes` waits at most for what objects of this isolate are about to tell the directory. */
const PATIENCE_MS = 1_000;
const LOOK_MS = 2;

/** What is about to be announced in this isolate, and since when. */
const underway = new Map<object, number>();

/** An announcement is on its way until the function returned is called. */
export function newsUnderway(): () => void {
  const token = {};
  underway.set(token, Date.now());
  return () => void underway.delete(token);
}

/**
 * Resolves once the announcements that are under way have come, so that a write that the app has answered is listed;
 * those of other isolates are not waited for, nor is one that takes too long.
 */
export async function newsCome(): Promise<void> {
  const now = Date.now();
  // An object that was put away meanwhile announces nothing any more.
  for (const [token, since] of underway) if (now - since > PATIENCE_MS) underway.delete(token);
  let waited = [...underway.keys()];
  for (let ms = 0; waited.length > 0 && ms < PATIENCE_MS; ms += LOOK_MS) {
    await scheduler.wait(LOOK_MS);
    waited = waited.filter((token) => underway.has(token));
  }
}
