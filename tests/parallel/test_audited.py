from tests.parallel.test_parallel import on_ranks


def test_every_rank_audits_its_own_rows():
    assert on_ranks("audited") == [
        "parts_of_rows_are_unreadable",
        "ours_is_exact_and_training_the_same_bit_for_bit",
        "transformers_hook_is_read",
        "a_divided_table_is_unreadable_and_works_on",
    ]
