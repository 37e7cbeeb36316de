from tests.ranks import main

main()
