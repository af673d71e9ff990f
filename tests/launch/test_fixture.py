"""The fixtures themselves: fresh, found by jobs, and writing."""

from aqvolt_flows.stores import Database


def test_database_is_fresh_and_found(database: Database) -> None:
    assert database["candidates"].count_documents({}) == 0
    database["candidates"].insert_one({"candidate_id": "c", "key": "k"})
    assert Database.connect().mongo.name == database.mongo.name
    assert Database.connect()["candidates"].count_documents({}) == 1


def test_second_database_does_not_see_the_first(database: Database) -> None:
    assert database["candidates"].count_documents({}) == 0
