// The API of reviews of recorded sessions.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { SessionReviewService } from "./gen/loopback/v1/sessionreview_pb";

export const sessionReviews = createClient(SessionReviewService, transport);
