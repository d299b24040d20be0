/** How an app is reached: a link, or, where no name leads to it, the request that reaches it. */
export function reached({ url, host }: { url: string; host?: string | null | undefined }): string {
	return host ? `curl -H 'Host: ${host}' ${url}` : url;
}
