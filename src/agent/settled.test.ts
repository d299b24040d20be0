import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Known } from '#wire/region.ts';
import { SettledByAll } from './settled.ts';

test('with one depot what it says holds', () => {
	const { settled, told } = house('own');
	settled.said('own', { type: 'settled', items: [at(3)] });
	settled.said('own', { type: 'settled', items: [at(3)] });
	settled.said('own', { type: 'settled', items: [at(4)] });
	assert.deepEqual(told, [3, 3, 4]);
});

test('with two of them only what both say: each speaks for the edges it hears', () => {
	const { settled, told } = house('one', 'two');
	settled.said('one', { type: 'settled', items: [], edges: 1 });
	settled.said('one', { type: 'settled', items: [at(5)], edges: 1 });
	assert.deepEqual(told, [], 'the other has not said yet how many edges it has');
	settled.said('two', { type: 'settled', items: [at(4)], edges: 2 });
	assert.deepEqual(told, [4]);
	settled.said('two', { type: 'settled', items: [at(6)], edges: 2 });
	assert.deepEqual(told, [4, 5]);
});

test('a depot without edges is not waited for, nor one that went away', () => {
	const { settled, told } = house('one', 'two', 'three');
	settled.said('one', { type: 'settled', items: [at(5)], edges: 1 });
	settled.said('two', { type: 'settled', items: [], edges: 0 });
	assert.deepEqual(told, []);
	settled.down('three');
	assert.deepEqual(told, [5]);
	settled.said('one', { type: 'settled', items: [at(6)], edges: 1 });
	settled.said('two', { type: 'settled', items: [], edges: 1 });
	settled.said('one', { type: 'settled', items: [at(7)], edges: 1 });
	assert.deepEqual(told, [5, 6], 'it has one now');
});

test('what is settled never goes back, whoever comes later with less', () => {
	const { settled, told } = house('one');
	settled.said('one', { type: 'settled', items: [at(5)], edges: 1 });
	settled.up('two');
	settled.said('two', { type: 'settled', items: [at(3)], edges: 1 });
	settled.down('one');
	assert.deepEqual(told, [5]);
});

function house(...depots: string[]) {
	const told: number[] = [];
	const settled = new SettledByAll((items) => told.push(...items.map(({ version }) => version)));
	for (const depot of depots) settled.up(depot);
	return { settled, told };
}

function at(version: number): Known {
	return { region: 'fra', app: 'notes', environment: 'production', epoch: 1, version };
}
