// The API of reviews of standing access.
import { createClient } from "@connectrpc/connect";
import { transport } from "./client";
import { AccessReviewService } from "./gen/loopback/v1/review_pb";

export const reviews = createClient(AccessReviewService, transport);
