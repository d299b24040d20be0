import type { PullRequest } from '#wire/repositories.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';

/** A deployer has looked at this commit of a fork: it may be built, and no other. @throws Refusal 404, 409 */
export async function approve(house: House, of: { repository: string; number: number; commit: string; by: string }): Promise<PullRequest> {
	const { repository, number, by } = of;
	const pull = (await house.state.repositories.pullRequests(repository)).find((one) => one.number === number);
	if (!pull)
		throw new Refusal(
			'pull_request_unknown',
			404,
			`${repository} has no pull request ${number} from a fork`,
			'"jibe repo pulls" lists them',
		);
	if (pull.state === 'closed') throw new Refusal('pull_request_closed', 409, `#${number} of ${repository} is closed`);
	const other = () =>
		new Refusal(
			'pull_request_moved',
			409,
			`#${number} of ${repository} is at ${pull.commit} by now`,
			'look at what came since, then approve that',
			{
				commit: pull.commit,
			},
		);
	if (!pull.commit.startsWith(of.commit)) throw other();
	const approved = await house.state.repositories.approve({ repository, number, commit: pull.commit, by });
	if (!approved) throw other();
	// The same row again after a repeated request.
	await house.state.deliveries.receive({
		repository,
		id: `approved:${number}:${pull.commit}:${approved.approved!.at}`,
		event: 'approved',
		ref: `pull:${number}`,
		detail: { number },
	});
	return approved;
}
